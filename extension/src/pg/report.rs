//! Raising SQL errors: an SQLSTATE, a message in PostgreSQL's style, a detail and a hint.

use super::text::server_takes;
use pgrx::PgLogLevel;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// An SQL error or warning under construction.
#[must_use = "a report does nothing until it is raised"]
pub struct Report(ErrorReport);

impl Report {
    /// A report of that class; the message is lower case and has no full stop.
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self(ErrorReport::new(code, for_client(message.into()), "distilface"))
    }

    /// The figures behind the message.
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self(self.0.set_detail(for_client(detail.into())))
    }

    /// What to do next.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.set_hint(for_client(hint.into())))
    }

    /// Ends the statement with this error.
    pub fn raise(self) -> ! {
        self.0.report(PgLogLevel::ERROR);
        unreachable!("an ERROR report does not return")
    }

    /// Tells the client and goes on.
    pub fn warn(self) {
        self.0.report(PgLogLevel::WARNING);
    }

    /// Tells the client something that needs no action.
    pub fn notice(self) {
        self.0.report(PgLogLevel::NOTICE);
    }
}

/// PostgreSQL takes a message's bytes for text in the database's encoding: what may differ there is written
/// as in `U&'…'`.
fn for_client(text: String) -> String {
    if server_takes(&text) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if c.is_ascii() => out.push(c),
            '\0'..='\u{ffff}' => out.push_str(&format!("\\{:04X}", u32::from(c))),
            _ => out.push_str(&format!("\\+{:06X}", u32::from(c))),
        }
    }
    out
}
