//! What a backend keeps between calls: the encoder's working memory and threads, and the cache.

use super::ahead::{Ahead, Owner, Use};
use super::cache::{Cache, Key};
use super::device;
use crate::guc;
use crate::model::registry::ModelId;
use crate::pg::interrupts;
use crate::pg::report::Report;
use crate::pg::statement;
use distilface_core::encoder::{Context, Done, Embedded, EncodeError, InputKind, ScoreError};
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What a call does about texts that the model cannot take whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// As `distilface.on_empty` and `distilface.on_overflow` say.
    Settings,
    /// Blank gives NULL and overlong is cut, whatever the settings: the result of an IMMUTABLE
    /// function depends on its arguments alone.
    Pinned,
}

/// What the backend has embedded so far.
#[derive(Debug, Clone, Copy)]
pub struct Activity {
    /// Texts that the encoder read, and their tokens.
    pub texts: u64,
    pub tokens: u64,
    /// How often it was run: a batch is one run.
    pub runs: u64,
    /// Texts whose vector was still in the cache.
    pub remembered: u64,
}

pub fn activity() -> Activity {
    ACTIVITY.get()
}

struct Session {
    settings: Settings,
    context: Context,
    cache: Cache,
    ahead: Ahead,
}

/// The settings that a context is made with.
#[derive(PartialEq, Eq)]
struct Settings {
    threads: usize,
    max_batch_tokens: usize,
}

/// Hears what of a batch is done.
type Watch = Box<dyn Fn(Done)>;

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
    static HELD_OFF: Cell<bool> = const { Cell::new(false) };
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
    static ACTIVITY: Cell<Activity> =
        const { Cell::new(Activity { texts: 0, tokens: 0, runs: 0, remembered: 0 }) };
}

/// Embeds one text; `None` for a blank one.
pub fn embed_one(
    model: ModelId,
    input: InputKind,
    text: &str,
    strictness: Strictness,
) -> Option<Rc<[f32]>> {
    match with_session(|session| session.recall(model, input, text)) {
        Recalled::Remembered(vector) => {
            let before = ACTIVITY.get();
            ACTIVITY.set(Activity { remembered: before.remembered + 1, ..before });
            return Some(vector);
        }
        Recalled::Foreseen(vector) => return Some(vector),
        Recalled::ForeseenCut(vector) => {
            tell_cut(model, 1, strictness);
            return Some(vector);
        }
        Recalled::Unknown => {}
    }
    let embedded = run(model, input, &[text], strictness);
    let vector = embedded.vector(0).map(Rc::from);
    match &vector {
        // A cut text is not kept, so that each use is counted.
        Some(vector) if embedded.truncated == 0 => {
            with_session(|session| session.cache.put(model, input, text, vector));
        }
        Some(_) => {}
        None => refuse_blank(strictness),
    }
    vector
}

/// What a session knows of a text before it is embedded.
enum Recalled {
    /// Embedded for an earlier call.
    Remembered(Rc<[f32]>),
    /// Embedded ahead, for this call.
    Foreseen(Rc<[f32]>),
    /// The same, and the text was cut.
    ForeseenCut(Rc<[f32]>),
    Unknown,
}

impl Session {
    fn recall(&mut self, model: ModelId, input: InputKind, text: &str) -> Recalled {
        if let Some(vector) = self.cache.get(model, input, text) {
            return Recalled::Remembered(vector);
        }
        if self.ahead.is_empty() {
            return Recalled::Unknown;
        }
        let Some(foreseen) = self.ahead.get(&Key { model, input, text: text.into() }) else {
            return Recalled::Unknown;
        };
        foreseen.asked_for.set(true);
        let vector = Rc::clone(&foreseen.vector);
        if foreseen.cut {
            return Recalled::ForeseenCut(vector);
        }
        self.cache.put(model, input, text, &vector);
        Recalled::Foreseen(vector)
    }
}

/// Embeds texts that calls will ask for, as the owner's batch. Nothing is told or refused here: the
/// call for a text does that, as if it had embedded it.
pub fn embed_ahead(owner: Owner, model: ModelId, input: InputKind, texts: &[String]) {
    let mut unknown: Vec<&str> = texts.iter().map(String::as_str).collect();
    unknown.sort_unstable();
    unknown.dedup();
    with_session(|session| {
        unknown.retain(|text| session.cache.get(model, input, text).is_none());
    });
    if unknown.is_empty() {
        return;
    }
    let Ok(embedded) = compute(model, input, &unknown) else { return };
    with_session(|session| {
        for (i, text) in unknown.into_iter().enumerate() {
            if let Some(vector) = embedded.vector(i) {
                let key = Key { model, input, text: text.into() };
                session.ahead.put(owner, key, Rc::from(vector), embedded.is_cut(i));
            }
        }
    });
}

/// Puts an owner's batch away.
pub fn retire(owner: Owner) -> Use {
    with_session(|session| session.ahead.retire(owner))
}

/// Embeds texts as one batch.
pub fn embed_batch(
    model: ModelId,
    input: InputKind,
    texts: &[&str],
    strictness: Strictness,
) -> Embedded {
    let embedded = run(model, input, texts, strictness);
    if (0..texts.len()).any(|i| embedded.vector(i).is_none()) {
        refuse_blank(strictness);
    }
    embedded
}

/// Tells `watch` what of a batch is done while `work` embeds it.
pub fn watched<T>(watch: impl Fn(Done) + 'static, work: impl FnOnce() -> T) -> T {
    struct Unwatch;
    impl Drop for Unwatch {
        fn drop(&mut self) {
            WATCH.set(None);
        }
    }
    WATCH.set(Some(Box::new(watch)));
    let _unwatch = Unwatch;
    work()
}

/// Scores documents against a query by a cross-encoder, as one batch.
///
/// # Errors
/// Raises 42809 for a sentence encoder.
pub fn score(model: ModelId, query: &str, documents: &[&str]) -> Vec<Option<f32>> {
    let encoder = model.encoder();
    let scored = until_done(|cx| match encoder.score(query, documents, cx) {
        Ok(scored) => Ok(scored),
        Err(ScoreError::Encode(error)) => Err(error),
        Err(ScoreError::NoHead) => Report::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            "the model is a sentence encoder, which cannot rerank",
        )
        .hint("Name a cross-encoder, or order by distilface_similarity(text, text, model).")
        .raise(),
    });
    if scored.truncated > 0 && guc::ON_OVERFLOW.get() != guc::OnOverflow::silent {
        statement::count_truncated(scored.truncated as u64);
    }
    scored.scores
}

/// Runs `work` again where an interrupt that stopped it did not end the statement.
fn until_done<T>(work: impl FnMut(&mut Context) -> Result<T, EncodeError>) -> T {
    try_until_done(work).unwrap_or_else(|error| embedding_failed(&error))
}

/// As [`until_done`]; the error is none of an interrupt.
fn try_until_done<T>(
    mut work: impl FnMut(&mut Context) -> Result<T, EncodeError>,
) -> Result<T, EncodeError> {
    HELD_OFF.set(false);
    loop {
        match with_session(|session| work(&mut session.context)) {
            Err(EncodeError::Canceled) => {
                interrupts::check();
                // Not every interrupt ends the statement. One that PostgreSQL holds off for now
                // must not stop the work again.
                HELD_OFF.set(interrupts::pending());
            }
            done => return done,
        }
    }
}

fn run(model: ModelId, input: InputKind, texts: &[&str], strictness: Strictness) -> Embedded {
    if model.manifest().head.is_some() {
        Report::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            "the model is a cross-encoder, which does not embed",
        )
        .hint("distilface_rerank(query, docs, model) scores pairs by it.")
        .raise()
    }
    let embedded = compute(model, input, texts).unwrap_or_else(|error| embedding_failed(&error));
    if embedded.truncated > 0 {
        tell_cut(model, embedded.truncated, strictness);
    }
    embedded
}

/// Runs the encoder, and counts what it read.
fn compute(model: ModelId, input: InputKind, texts: &[&str]) -> Result<Embedded, EncodeError> {
    let encoder = model.encoder();
    let embedded = match on_device(model, input, texts) {
        Some(embedded) => embedded,
        None => try_until_done(|cx| encoder.embed(texts, input, cx))?,
    };
    let before = ACTIVITY.get();
    ACTIVITY.set(Activity {
        texts: before.texts + embedded.vectors().flatten().count() as u64,
        tokens: before.tokens + embedded.tokens as u64,
        runs: before.runs + u64::from(embedded.tokens > 0),
        ..before
    });
    Ok(embedded)
}

/// What another device than the CPU makes of texts, where the settings name one that works.
fn on_device(model: ModelId, input: InputKind, texts: &[&str]) -> Option<Embedded> {
    let device = device::of(model)?;
    let mut held_off = false;
    loop {
        match device.embed(texts, input, &mut || interrupts::pending() && !held_off) {
            Ok(embedded) => return Some(embedded),
            Err(device::Failure::Canceled) => {
                interrupts::check();
                held_off = interrupts::pending();
            }
            Err(device::Failure::Device(why)) => {
                device::fall_back(&why);
                return None;
            }
        }
    }
}

fn embedding_failed(error: &EncodeError) -> ! {
    Report::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "embedding failed")
        .detail(error.to_string())
        .raise()
}

/// Says of so many texts of a call that they were cut, as the settings want it.
fn tell_cut(model: ModelId, texts: usize, strictness: Strictness) {
    match (strictness, guc::ON_OVERFLOW.get()) {
        (_, guc::OnOverflow::silent) => {}
        (Strictness::Settings, guc::OnOverflow::error) => refuse_overlong(model, texts),
        _ => statement::count_truncated(texts as u64),
    }
}

fn refuse_blank(strictness: Strictness) {
    if strictness == Strictness::Settings && guc::ON_EMPTY.get() == guc::OnEmpty::error {
        Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "cannot embed a blank text")
            .hint("Leave blank texts out, or set distilface.on_empty to null.")
            .raise()
    }
}

fn refuse_overlong(model: ModelId, texts: usize) -> ! {
    let max_tokens = model.encoder().manifest().max_tokens;
    Report::new(
        PgSqlErrorCode::ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
        format!("text is longer than the {max_tokens} tokens that the model reads"),
    )
    .detail(format!("Too long: {texts} of the call's texts."))
    .hint("Split the text, or set distilface.on_overflow to warn. distilface_token_count(text) tells its length.")
    .raise()
}

/// Runs `work` with this backend's session, made on first use; its context is made anew where a
/// setting changed.
fn with_session<T>(work: impl FnOnce(&mut Session) -> T) -> T {
    SESSION.with_borrow_mut(|slot| {
        let settings = Settings::current();
        let session = slot.get_or_insert_with(|| Session {
            context: settings.context(),
            settings: Settings::current(),
            cache: Cache::new(),
            ahead: Ahead::default(),
        });
        if session.settings != settings {
            session.context = settings.context();
            session.settings = settings;
        }
        work(session)
    })
}

impl Settings {
    fn current() -> Self {
        let tokens = usize::try_from(guc::MAX_BATCH_TOKENS.get()).unwrap_or(0);
        Self { threads: guc::threads(), max_batch_tokens: tokens }
    }

    fn context(&self) -> Context {
        Context::new(self.threads)
            .with_max_batch_tokens(self.max_batch_tokens)
            .with_cancel(|| interrupts::pending() && !HELD_OFF.get())
            .with_progress(|done| {
                WATCH.with_borrow(|watch| {
                    if let Some(watch) = watch {
                        watch(done);
                    }
                });
            })
    }
}
