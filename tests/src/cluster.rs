//! One server with its data directory: start, stop, kill, look into.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::server::{Server, give_to_postgres, run};
use crate::session::{Session, SqlError};
use crate::template;

/// A running server, removed when dropped.
pub struct Cluster {
    pub(crate) server: Server,
    pub(crate) settings: Vec<(String, String)>,
    // The data directory, the log and the socket; short, because a socket's path has 107 bytes.
    pub(crate) dir: TempDir,
    postmaster: Option<Child>,
}

/// What a cluster whose data are kept begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// A fresh copy of the template, whatever the last one left.
    Anew,
    /// What the last one left, or else a fresh copy.
    AsItWas,
}

/// How a cluster is to be started.
pub struct Builder {
    version: u32,
    settings: Vec<(String, String)>,
    kept: Option<(String, Kept)>,
}

impl Builder {
    /// The major version; 15 unless said otherwise.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// A line of postgresql.conf.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Listens on 127.0.0.1 too, on a port that is free, see [`Cluster::port`].
    pub fn tcp(self) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("there is a free port").port();
        self.set("listen_addresses", "127.0.0.1").set("port", &port.to_string())
    }

    /// Flushes to disk as a production server does; off by default because most tests never lose power.
    /// (`kill -9` loses nothing that was written, flushed or not.)
    pub fn durable(self) -> Self {
        self.set("fsync", "on")
    }

    /// Keeps the data directory, beside the trees, for the next cluster of that name: for measurements whose
    /// data take long to make. Such a cluster is to be stopped, or the next one begins with crash recovery.
    pub fn keep(mut self, name: &str, kept: Kept) -> Self {
        self.kept = Some((format!("{}-{name}", self.version), kept));
        self
    }

    /// Starts it; `None` where this machine has no such version.
    pub fn try_start(self) -> Option<Cluster> {
        let server = Server::find(self.version)?;
        let dir = socket_dir();
        let data = dir.path().join("data");
        match &self.kept {
            None => template::copy_to(&server, &data),
            Some((name, from)) => {
                let folder = server.trees().join("kept");
                fs::create_dir_all(&folder).expect("the folder of the trees can be written");
                let kept = folder.join(name);
                if *from == Kept::Anew && kept.exists() {
                    fs::remove_dir_all(&kept).expect("the folder of the trees can be written");
                }
                if !kept.exists() {
                    template::copy_to(&server, &kept);
                }
                std::os::unix::fs::symlink(kept, data).expect("a fresh folder can be written");
            }
        }
        give_to_postgres(dir.path());
        Some(Cluster::launch(server, self.settings, dir))
    }

    /// Starts it.
    ///
    /// # Panics
    /// Where this machine has no such version.
    pub fn start(self) -> Cluster {
        let version = self.version;
        self.try_start()
            .unwrap_or_else(|| panic!("no PostgreSQL {version} here, run `make pg-trees`"))
    }
}

impl Cluster {
    /// A PostgreSQL 15 with the extension created in database `postgres`.
    pub fn start() -> Cluster {
        Cluster::builder().start()
    }

    pub fn builder() -> Builder {
        let settings = [
            ("listen_addresses", ""),
            ("fsync", "off"),
            ("shared_buffers", "64MB"),
            ("max_connections", "100"),
            ("max_wal_senders", "4"),
            ("max_wal_size", "256MB"),
            ("autovacuum", "off"),
            ("log_min_messages", "warning"),
            ("log_line_prefix", "%m [%p] "),
        ];
        Builder {
            version: 15,
            settings: settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            kept: None,
        }
    }

    /// Starts a server on a directory whose `data` is ready.
    pub(crate) fn launch(server: Server, settings: Vec<(String, String)>, dir: TempDir) -> Cluster {
        let mut cluster = Cluster { server, settings, dir, postmaster: None };
        cluster.restart();
        cluster
    }

    /// Starts the server again after [`stop`](Self::stop) or [`kill9`](Self::kill9), and waits until it
    /// takes connections.
    pub fn restart(&mut self) {
        assert!(self.postmaster.is_none(), "the server runs already");
        let mut conf = String::new();
        for (name, value) in &self.settings {
            conf.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        conf.push_str(&format!("unix_socket_directories = '{}'\n", self.dir.path().display()));
        let conf_path = self.data().join("distilface-tests.conf");
        fs::write(&conf_path, conf).expect("the configuration can be written");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log can be opened");
        let mut command = self.server.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .arg("-c")
            .arg(format!("config_file={}", self.data().join("distilface-tests.conf").display()));
        command.stdout(log.try_clone().expect("a log handle can be copied")).stderr(log);
        self.postmaster = Some(command.spawn().expect("setpriv is installed"));
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        // Crash recovery on a slow machine takes long; a server that exits is noticed at once.
        for _ in 0..12_000 {
            if Session::connect(self.dir.path(), self.port(), "postgres", "postgres").is_ok() {
                return;
            }
            let postmaster = self.postmaster.as_mut().expect("it was just started");
            if let Some(status) = postmaster.try_wait().expect("a child can be waited for") {
                self.postmaster = None;
                panic!("the server did not start: {status}\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server takes no connections\n{}", self.log_tail());
    }

    /// A clean shutdown (`fast`: open transactions are rolled back).
    pub fn stop(&mut self) {
        self.signal_and_wait(Signal::SIGINT);
    }

    /// Kills every process of the server at once, as a power cut would.
    pub fn kill9(&mut self) {
        let mut postmaster = self.postmaster.take().expect("the server runs");
        // Stopped first, so that it neither starts nor reaps children meanwhile; killed last, so that no child
        // has the time to say farewell to its client.
        signal(&[postmaster.id()], Signal::SIGSTOP);
        let mut pids = children_of(postmaster.id());
        let children = pids.clone();
        pids.push(postmaster.id());
        signal(&pids, Signal::SIGKILL);
        postmaster.wait().expect("a child can be waited for");
        while children.iter().any(|pid| is_alive(*pid)) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// [`kill9`](Self::kill9) and [`restart`](Self::restart): crash recovery has run when it returns.
    pub fn kill9_and_restart(&mut self) {
        self.kill9();
        self.restart();
    }

    fn signal_and_wait(&mut self, how: Signal) {
        let mut postmaster = self.postmaster.take().expect("the server runs");
        signal(&[postmaster.id()], how);
        postmaster.wait().expect("a child can be waited for");
    }

    /// A connection to database `postgres` as the superuser.
    pub fn session(&self) -> Session {
        self.session_as("postgres", "postgres")
    }

    pub fn session_as(&self, user: &str, database: &str) -> Session {
        Session::connect(self.dir.path(), self.port(), user, database).unwrap_or_else(|e| {
            panic!("cannot connect as {user} to {database}: {e}\n{}", self.log_tail())
        })
    }

    /// The directory of the server's socket, which is the host for any client.
    pub fn host(&self) -> &Path {
        self.dir.path()
    }

    /// The port, on the socket and on 127.0.0.1 after [`Builder::tcp`].
    pub fn port(&self) -> u16 {
        let set = self.settings.iter().rfind(|(name, _)| name == "port");
        set.map_or(5432, |(_, port)| port.parse().expect("a port is a number"))
    }

    /// Runs statements in a session of their own, as [`Session::sql`].
    pub fn sql(&self, sql: &str) {
        self.session().sql(sql);
    }

    pub fn one(&self, sql: &str) -> String {
        self.session().one(sql)
    }

    pub fn column(&self, sql: &str) -> Vec<String> {
        self.session().column(sql)
    }

    pub fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.session().rows(sql)
    }

    pub fn error(&self, sql: &str) -> SqlError {
        self.session().error(sql)
    }

    /// One of PostgreSQL's client programs, bound to this server: `program("pg_dump").args(["-d", "postgres"])`.
    pub fn program(&self, name: &str) -> Command {
        let mut command = self.server.command(name);
        command.args(["-h".as_ref(), self.dir.path().as_os_str()]).args(["-U", "postgres"]);
        command.args(["-p", &self.port().to_string()]);
        command
    }

    /// Runs a psql script and returns what psql printed, unaligned and without headers.
    ///
    /// # Panics
    /// When a statement fails.
    pub fn psql(&self, script: &str) -> String {
        self.psql_in("postgres", script)
    }

    /// [`psql`](Self::psql) in another database.
    pub fn psql_in(&self, database: &str, script: &str) -> String {
        let mut command = self.program("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("psql can be started");
        let mut stdin = child.stdin.take().expect("standard input was piped");
        // psql answers while it reads: a script longer than a pipe must be fed from another thread.
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(script.as_bytes()));
            child.wait_with_output().expect("a child can be waited for")
        });
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "psql failed: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `pg_dump` of a database, as a script.
    pub fn dump(&self, database: &str) -> String {
        run(self.program("pg_dump").args(["-d", database]))
    }

    /// Restores a script of [`dump`](Self::dump) into a new database.
    pub fn restore(&self, script: &str, database: &str) {
        // template0: a dump brings its own CREATE EXTENSION.
        self.sql(&format!("CREATE DATABASE {database} TEMPLATE template0"));
        self.psql_in(database, script);
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The server's log.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        format!("--- the server's log, {} ---\n{tail}", self.log_path().display())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            signal(&[postmaster.id()], Signal::SIGQUIT);
            let _ = postmaster.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
            return;
        }
        let log = self.log();
        let died = log.lines().find(|line| {
            ["was terminated by signal", "PANIC:", "TRAP:"].iter().any(|mark| line.contains(mark))
        });
        if let Some(line) = died {
            panic!("a backend died: {line}\n{}", self.log_tail());
        }
    }
}

/// A fresh directory with a short name; the server's user may enter it.
pub(crate) fn socket_dir() -> TempDir {
    tempfile::Builder::new()
        .prefix("df")
        .rand_bytes(6)
        .tempdir_in("/tmp")
        .expect("/tmp can be written")
}

fn signal(pids: &[u32], signal: Signal) {
    for &pid in pids {
        let pid = i32::try_from(pid).expect("Linux's process ids fit in 22 bits");
        // A process that is gone already is what a signal wants.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|(_, ppid)| ppid == parent))
        .collect()
}

fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// State letter and parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold anything; the fields follow the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
