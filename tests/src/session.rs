//! One connection, in the words a test wants: run this, give me the rows as text, I expect this error.

use std::fmt;
use std::path::Path;

use postgres::config::Config;
use postgres::error::SqlState;
use postgres::{CancelToken, Client, NoTls, SimpleQueryMessage};

/// A connection that fails the test, with the statement and the server's words, when a statement fails.
pub struct Session {
    client: Client,
}

/// What the server said of a failed statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    pub code: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.code(), self.message)?;
        for extra in [&self.detail, &self.hint].into_iter().flatten() {
            write!(f, " / {extra}")?;
        }
        Ok(())
    }
}

/// Cancels what a session runs, from another thread.
#[derive(Clone)]
pub struct Canceler(CancelToken);

impl Canceler {
    pub fn cancel(&self) {
        self.0.cancel_query(NoTls).expect("the server takes a cancel request");
    }
}

impl Session {
    /// A connection to any server by its socket's directory.
    ///
    /// # Errors
    /// Where the server takes none.
    pub fn connect(
        socket_dir: &Path,
        port: u16,
        user: &str,
        database: &str,
    ) -> Result<Self, postgres::Error> {
        let mut config = Config::new();
        config
            .host_path(socket_dir)
            .port(port)
            .user(user)
            .dbname(database)
            .application_name("distilface-tests");
        // The log has the notices; a test's output shows what failed.
        config.notice_callback(|_| ());
        Ok(Session { client: config.connect(NoTls)? })
    }

    /// The connection itself, for COPY, parameters, transactions and cancel tokens.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Runs statements.
    pub fn sql(&mut self, sql: &str) {
        self.try_sql(sql).unwrap_or_else(|e| panic!("{e}\n  in: {}", shorten(sql)));
    }

    /// Runs statements; the server's error is the caller's business.
    ///
    /// # Errors
    /// What the server said.
    ///
    /// # Panics
    /// When the connection is lost: no statement may do that.
    pub fn try_sql(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, SqlError> {
        match self.client.simple_query(sql) {
            Ok(messages) => Ok(messages.iter().filter_map(row).collect()),
            Err(error) => Err(sql_error(&error).unwrap_or_else(|| {
                panic!("the connection broke: {error}\n  in: {}", shorten(sql))
            })),
        }
    }

    /// Runs statements while the server may die: `true` once it acknowledged them, `false` when the connection
    /// broke on the way.
    ///
    /// # Panics
    /// When the server reports an error.
    pub fn acknowledged(&mut self, sql: &str) -> bool {
        match self.client.simple_query(sql) {
            Ok(_) => true,
            Err(error) => match sql_error(&error) {
                Some(error) => panic!("{error}\n  in: {}", shorten(sql)),
                None => false,
            },
        }
    }

    /// The error of statements that must fail.
    pub fn error(&mut self, sql: &str) -> SqlError {
        match self.try_sql(sql) {
            Err(error) => error,
            Ok(rows) => panic!("expected an error, got {rows:?}\n  in: {}", shorten(sql)),
        }
    }

    /// Rows as text; NULL is `None`.
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_sql(sql).unwrap_or_else(|e| panic!("{e}\n  in: {}", shorten(sql)))
    }

    /// The first column as text, NULL as an empty string.
    pub fn column(&mut self, sql: &str) -> Vec<String> {
        self.rows(sql).into_iter().map(|mut row| row.swap_remove(0).unwrap_or_default()).collect()
    }

    /// The first column of the only row, as text, NULL as an empty string.
    pub fn one(&mut self, sql: &str) -> String {
        let mut column = self.column(sql);
        assert_eq!(column.len(), 1, "expected one row from: {}", shorten(sql));
        column.swap_remove(0)
    }

    /// The backend's process id.
    pub fn pid(&mut self) -> i32 {
        self.one("SELECT pg_backend_pid()").parse().expect("a process id is a number")
    }

    pub fn canceler(&self) -> Canceler {
        Canceler(self.client.cancel_token())
    }
}

/// The server's words, where the error came from the server.
pub(crate) fn sql_error(error: &postgres::Error) -> Option<SqlError> {
    error.as_db_error().map(|e| SqlError {
        code: e.code().clone(),
        message: e.message().to_owned(),
        detail: e.detail().map(str::to_owned),
        hint: e.hint().map(str::to_owned),
    })
}

fn row(message: &SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
}

fn shorten(sql: &str) -> String {
    let mut short: String = sql.chars().take(600).collect();
    if short.len() < sql.len() {
        short.push('…');
    }
    short
}
