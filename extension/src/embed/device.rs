//! `distilface.device`: whether the CPU's kernels embed, or candle on a CUDA device (cargo feature `cuda`).
//!
//! A device that is not there, or that fails, leaves the work to the CPU; a NOTICE says so, once a
//! session. The device's vectors are those of f32: close to the kernels' (cosine above 0.999), not the
//! same bits. The library's state on the device is made with the first text and stays with the session.

use crate::guc;
use crate::model::registry::ModelId;
use crate::pg::report::Report;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::cell::Cell;

pub use on_device::OnDevice;

/// Why a device has no vectors.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "no device fails in this build"))]
pub enum Failure {
    Canceled,
    Device(String),
}

thread_local! {
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

/// The model on the device that the settings name; none for the CPU.
pub fn of(model: ModelId) -> Option<OnDevice> {
    let device = guc::DEVICE.get();
    if device == guc::Device::cpu || FAILED.get() {
        return None;
    }
    match OnDevice::of(model) {
        Ok(on_device) => Some(on_device),
        Err(why) => {
            // `auto` takes what is there.
            if device == guc::Device::cuda {
                fall_back(&why);
            }
            None
        }
    }
}

/// Leaves this session's texts to the CPU, and says why.
pub fn fall_back(why: &str) {
    if !FAILED.replace(true) {
        Report::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            "no CUDA device embeds for this session, the CPU does",
        )
        .detail(format!("{why}."))
        .hint("Set distilface.device to cpu where no device is meant to.")
        .notice();
    }
}

#[cfg(not(feature = "cuda"))]
mod on_device {
    use super::Failure;
    use crate::model::registry::ModelId;
    use distilface_core::encoder::{Embedded, InputKind};

    /// A model on a device: there is none in this build.
    pub enum OnDevice {}

    impl OnDevice {
        pub fn of(_model: ModelId) -> Result<Self, String> {
            Err("The library was built without the cargo feature cuda".into())
        }

        pub fn embed(
            &self,
            _texts: &[&str],
            _input: InputKind,
            _stop: &mut dyn FnMut() -> bool,
        ) -> Result<Embedded, Failure> {
            match *self {}
        }
    }
}

#[cfg(feature = "cuda")]
mod on_device {
    use super::Failure;
    use crate::model::registry::ModelId;
    use distilface_core::encoder::{
        Embedded, EncodeError, InputKind, Reference, ReferenceError, SentenceEncoder, cuda_device,
    };
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::rc::Rc;

    /// Tokens of a pass, padding included: what keeps a device busy.
    const BATCH_TOKENS: usize = 16_384;

    thread_local! {
        static MODELS: RefCell<HashMap<ModelId, Rc<Reference>>> = RefCell::new(HashMap::new());
    }

    /// A model on a device.
    pub struct OnDevice {
        encoder: &'static SentenceEncoder<'static>,
        weights: Rc<Reference>,
    }

    impl OnDevice {
        pub fn of(model: ModelId) -> Result<Self, String> {
            let encoder = model.encoder();
            if let Some(weights) = MODELS.with_borrow(|models| models.get(&model).cloned()) {
                return Ok(Self { encoder, weights });
            }
            let on_device = || Reference::from_packed(encoder, &cuda_device()?);
            let weights = Rc::new(on_device().map_err(|error| error.to_string())?);
            MODELS.with_borrow_mut(|models| models.insert(model, Rc::clone(&weights)));
            Ok(Self { encoder, weights })
        }

        pub fn embed(
            &self,
            texts: &[&str],
            input: InputKind,
            stop: &mut dyn FnMut() -> bool,
        ) -> Result<Embedded, Failure> {
            self.encoder.embed_on(&self.weights, texts, input, BATCH_TOKENS, stop).map_err(
                |error| match error {
                    ReferenceError::Encode(EncodeError::Canceled) => Failure::Canceled,
                    other => Failure::Device(other.to_string()),
                },
            )
        }
    }
}
