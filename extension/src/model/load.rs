//! Accepting models: checked wholly before a row of them is written.

use super::registry::{self, ModelId};
use crate::pg::interrupts;
use crate::pg::owner::as_models_owner;
use crate::pg::report::Report;
use crate::pg::roles;
use crate::pg::table;
use crate::pg::text::to_server;
use distilface_core::encoder::{SentenceEncoder, pack_model_with};
use distilface_core::model::{
    ImportOptions, Manifest, ModelError, Packed, SECTION_ALIGN, Tensors, check_name, open_any,
    packed_file, read_packed,
};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::spi::{Spi, SpiResult};
use std::borrow::Cow;
use std::path::Path;

/// Bytes of a row of `distilface.model_part`.
const PART: usize = 1 << 20;
/// Largest packed block that is taken: a model of the most weights that are served, in bf16.
const MAX_BLOCK: usize = 2 << 30;

/// Whose word stands behind a block's revision.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Provenance {
    /// Computed here, from files that were compared with it.
    Computed,
    /// Stated by who packed the block.
    Stated,
}

/// Checks and stores the model of a directory: ours or one of sentence-transformers, or where there
/// are no weights the packed model in it.
///
/// # Errors
/// Raises 42501 for who may not, 42602 for a bad name, 22023 for a directory that is no model of a
/// kind that is served, and 42710 where the name is bound to another revision.
pub fn from_directory(name: &str, directory: &Path) -> String {
    check(name);
    let options = ImportOptions { name: Some(name.to_owned()), ..ImportOptions::default() };
    let refuse = |error: ModelError| -> ! { refuse_model(&error, "directory") };
    let source = format!("directory {}", directory.display());
    if let Some(packed) = packed_file(directory) {
        let bytes = read_packed(&packed, MAX_BLOCK as u64).unwrap_or_else(|e| refuse(e));
        interrupts::check();
        let buffer = Buffer::new(bytes);
        let model = SentenceEncoder::verify_packed(buffer.bytes()).unwrap_or_else(|e| refuse(e));
        return store(name, buffer.bytes(), model.manifest(), &source, Provenance::Stated);
    }
    let opened = open_any(directory, &options, &mut |_| interrupts::check());
    let model = opened.unwrap_or_else(|error| refuse(error));
    let block = pack_model_with(&model, &Interruptible(&model)).unwrap_or_else(|e| refuse(e));
    store(name, &block, model.manifest(), &source, Provenance::Computed)
}

/// Checks and stores a packed model that lies in a large object, which the user may read.
///
/// # Errors
/// As [`from_directory`].
pub fn from_large_object(name: &str, oid: pg_sys::Oid) -> String {
    check(name);
    let buffer = read_large_object(oid);
    let block = buffer.bytes();
    let model =
        SentenceEncoder::verify_packed(block).unwrap_or_else(|e| refuse_model(&e, "large object"));
    let manifest = model.manifest().clone();
    let source = manifest.source.clone().unwrap_or_else(|| "large object".to_owned());
    store(name, block, &manifest, &source, Provenance::Stated)
}

/// Copies a built-in model into the tables, under its name, and keeps a stored one from being
/// dropped until this transaction commits.
///
/// # Errors
/// Raises 42704 where the model was dropped meanwhile, and what writing a table may raise.
pub fn keep(model: ModelId) {
    if lock(model) == Held::Nothing
        && let Some(builtin) = model.builtin()
    {
        let manifest = model.encoder().manifest();
        put(builtin.name, builtin.packed, manifest, "built-in", Provenance::Computed, true);
    }
}

/// As [`keep`], for the build of an index in a restore, which must not wait for who changes models: where
/// somebody does, the restore brings the built-in model itself.
pub fn keep_if_free(model: ModelId) {
    let free = |table| table::try_lock(table, pg_sys::ShareRowExclusiveLock);
    if model.builtin().is_none() || table::oid_of(c"model").is_some_and(free) {
        keep(model);
    }
}

/// Keeps a stored model from being dropped until this transaction commits. Others may load models
/// meanwhile, which they may not after [`keep`].
///
/// # Errors
/// Raises 42704 where the model was dropped meanwhile.
pub fn hold(model: ModelId) {
    lock(model);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Row,
    /// A model of the library that the tables do not have.
    Nothing,
}

/// Takes the lock on a model's row that a drop waits for.
fn lock(model: ModelId) -> Held {
    let revision = model.revision();
    let held = as_models_owner(|| {
        Spi::get_one_with_args::<bool>(
            "SELECT true FROM distilface.model WHERE revision = $1 AND sha256 IS NOT NULL \
             LIMIT 1 FOR KEY SHARE",
            &[text(revision)],
        )
    });
    if matches!(held, Some(Ok(Some(true)))) {
        return Held::Row;
    }
    if model.builtin().is_none() {
        Report::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, "the model was dropped meanwhile")
            .detail(format!("Its revision is {revision}."))
            .hint("See distilface.models for the loaded ones.")
            .raise()
    }
    Held::Nothing
}

fn check(name: &str) {
    let valid = check_name(name).is_ok() && name != registry::DEFAULT;
    if !valid {
        Report::new(
            PgSqlErrorCode::ERRCODE_INVALID_NAME,
            format!("\"{name}\" cannot be a model's name"),
        )
        .detail("A name has 1 to 63 of a-z, 0-9, \".\", \"_\" and \"-\", begins with a letter or a digit and is not \"default\".")
        .raise()
    }
}

fn store(
    name: &str,
    block: &[u8],
    manifest: &Manifest,
    source: &str,
    provenance: Provenance,
) -> String {
    if let Some(builtin) = registry::library_model(name)
        && builtin.revision() != manifest.revision
    {
        Report::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("model name \"{name}\" is bound to another revision"),
        )
        .detail(format!("It is the built-in model of revision {}.", builtin.revision()))
        .hint("Load the model under a new name, one that carries its version.")
        .raise()
    }
    if let Some(builtin) = registry::by_revision(&manifest.revision).and_then(ModelId::builtin)
        && provenance == Provenance::Stated
        && builtin.packed != block
    {
        Report::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            "another model of this revision is here already",
        )
        .detail(format!("Revision {} is the built-in model's.", manifest.revision))
        .raise()
    }
    put(name, block, manifest, source, provenance, false);
    manifest.revision.clone()
}

/// Writes the rows of a model.
fn put(
    name: &str,
    block: &[u8],
    manifest: &Manifest,
    source: &str,
    provenance: Provenance,
    builtin: bool,
) {
    let sha256 =
        Packed::open(block).unwrap_or_else(|error| refuse_model(&error, "packed model")).sha256();
    // Outside of the owner's rights.
    let user = roles::current();
    let json = String::from_utf8_lossy(&manifest.to_json()).into_owned();
    let written = as_models_owner(|| -> SpiResult<()> {
        let outcome = Spi::get_one_with_args::<String>(
            "SELECT distilface.put_model($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9)",
            &[
                text(name),
                text(&manifest.revision),
                text(&sha256),
                builtin.into(),
                (block.len() as i64).into(),
                text(source),
                text(&json),
                user.into(),
                (provenance == Provenance::Stated).into(),
            ],
        )?;
        match outcome.as_deref() {
            Some("known") if !builtin => {
                Report::new(
                    PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
                    format!("model \"{name}\" is loaded already"),
                )
                .notice();
            }
            Some("new") => {
                for (part, bytes) in block.chunks(PART).enumerate() {
                    interrupts::check();
                    Spi::run_with_args(
                        "INSERT INTO distilface.model_part VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                        &[text(&sha256), (part as i32).into(), bytes.into()],
                    )?;
                }
            }
            _ => {}
        }
        if !builtin {
            // Indexes that a restore without models has left.
            Spi::run("SELECT distilface.fill_indexes()")?;
        }
        Ok(())
    });
    match written {
        Some(Ok(())) => {}
        Some(Err(error)) => fail(&error.to_string()),
        None => fail("the table distilface.model is not there"),
    }
}

/// A text argument in the database's encoding.
pub(super) fn text(value: &str) -> DatumWithOid<'static> {
    // SAFETY: the bytes of a text, valid in the database's encoding; text and bytea are laid out
    // alike.
    unsafe { DatumWithOid::new(to_server(value), pg_sys::TEXTOID) }
}

pub(super) fn fail(detail: &str) -> ! {
    Report::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "the tables of models cannot be written")
        .detail(detail)
        .raise()
}

/// Tensors that let PostgreSQL interrupt between two of them.
struct Interruptible<'a>(&'a dyn Tensors);

impl Tensors for Interruptible<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        interrupts::check();
        self.0.tensor(name, shape)
    }
}

/// A block at the alignment that its reader asks for.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new(mut bytes: Vec<u8>) -> Buffer {
        let length = bytes.len();
        // Room to move the block to an aligned place.
        bytes.reserve_exact(SECTION_ALIGN);
        let start = bytes.as_ptr().align_offset(SECTION_ALIGN) % SECTION_ALIGN;
        bytes.resize(length + start, 0);
        bytes.copy_within(..length, start);
        Buffer { bytes, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Reads a packed block as the user, who needs the right to.
fn read_large_object(oid: pg_sys::Oid) -> Buffer {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        interrupts::check();
        let read = Spi::get_one_with_args::<Vec<u8>>(
            "SELECT pg_catalog.lo_get($1, $2, $3)",
            &[oid.into(), (bytes.len() as i64).into(), (PART as i32).into()],
        );
        let part = match read {
            Ok(part) => part.unwrap_or_default(),
            Err(error) => fail(&error.to_string()),
        };
        if part.is_empty() {
            break;
        }
        bytes.extend_from_slice(&part);
        // A header is read before the rest is, so that what is no model costs one part.
        let stated =
            bytes.get(16..24).and_then(<[u8]>::first_chunk).map(|b| u64::from_le_bytes(*b));
        let plausible = bytes.starts_with(b"DFPACK")
            && stated.is_some_and(|length| length <= MAX_BLOCK as u64)
            && bytes.len() <= stated.unwrap_or(0) as usize;
        if !plausible {
            let got = format!("{} bytes that state {} bytes", bytes.len(), stated.unwrap_or(0));
            let error =
                ModelError::Packed { expected: "a packed model, as long as it states", got };
            refuse_model(&error, "large object");
        }
    }
    Buffer::new(bytes)
}

fn refuse_model(error: &ModelError, what: &str) -> ! {
    let code = match error {
        ModelError::Io { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
        ModelError::Unsupported { .. } => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        ModelError::Checksum { .. } => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        _ => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
    };
    Report::new(code, format!("{what} is not a model that can be loaded: {error}"))
        .hint("What loads: BERT, MiniLM and DistilBERT encoders in the layout of sentence-transformers with model.safetensors, and what distilface-train writes.")
        .raise()
}
