//! What a backend keeps between calls: the encoder's working memory and threads, and the cache.

use super::cache::Cache;
use crate::guc;
use crate::model::registry::ModelId;
use crate::pg::interrupts;
use crate::pg::report::Report;
use crate::pg::statement;
use distilface_core::encoder::{Context, Embedded, EncodeError, InputKind, ScoreError};
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
}

/// The settings that a context is made with.
#[derive(PartialEq, Eq)]
struct Settings {
    threads: usize,
    max_batch_tokens: usize,
}

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
    static HELD_OFF: Cell<bool> = const { Cell::new(false) };
    static ACTIVITY: Cell<Activity> = const { Cell::new(Activity { texts: 0, tokens: 0, remembered: 0 }) };
}

/// Embeds one text; `None` for a blank one.
pub fn embed_one(
    model: ModelId,
    input: InputKind,
    text: &str,
    strictness: Strictness,
) -> Option<Rc<[f32]>> {
    let known = with_session(|session| session.cache.get(model, input, text));
    if known.is_some() {
        let before = ACTIVITY.get();
        ACTIVITY.set(Activity { remembered: before.remembered + 1, ..before });
        return known;
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
fn until_done<T>(mut work: impl FnMut(&mut Context) -> Result<T, EncodeError>) -> T {
    HELD_OFF.set(false);
    loop {
        match with_session(|session| work(&mut session.context)) {
            Ok(done) => return done,
            Err(EncodeError::Canceled) => {
                interrupts::check();
                // Not every interrupt ends the statement. One that PostgreSQL holds off for now
                // must not stop the work again.
                HELD_OFF.set(interrupts::pending());
            }
            Err(error) => Report::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "embedding failed")
                .detail(error.to_string())
                .raise(),
        }
    }
}

fn run(model: ModelId, input: InputKind, texts: &[&str], strictness: Strictness) -> Embedded {
    let encoder = model.encoder();
    if encoder.manifest().head.is_some() {
        Report::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            "the model is a cross-encoder, which does not embed",
        )
        .hint("distilface_rerank(query, docs, model) scores pairs by it.")
        .raise()
    }
    let embedded = until_done(|cx| encoder.embed(texts, input, cx));
    let before = ACTIVITY.get();
    ACTIVITY.set(Activity {
        texts: before.texts + embedded.vectors().flatten().count() as u64,
        tokens: before.tokens + embedded.tokens as u64,
        ..before
    });
    if embedded.truncated > 0 {
        match (strictness, guc::ON_OVERFLOW.get()) {
            (_, guc::OnOverflow::silent) => {}
            (Strictness::Settings, guc::OnOverflow::error) => refuse_overlong(model, &embedded),
            _ => statement::count_truncated(embedded.truncated as u64),
        }
    }
    embedded
}

fn refuse_blank(strictness: Strictness) {
    if strictness == Strictness::Settings && guc::ON_EMPTY.get() == guc::OnEmpty::error {
        Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "cannot embed a blank text")
            .hint("Leave blank texts out, or set distilface.on_empty to null.")
            .raise()
    }
}

fn refuse_overlong(model: ModelId, embedded: &Embedded) -> ! {
    let max_tokens = model.encoder().manifest().max_tokens;
    Report::new(
        PgSqlErrorCode::ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
        format!("text is longer than the {max_tokens} tokens that the model reads"),
    )
    .detail(format!("Too long: {} of the call's texts.", embedded.truncated))
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
    }
}
