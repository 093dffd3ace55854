//! `sslmode` in a database's address means to `push` and `train` what it means to libpq: against a
//! server with certificates made on the spot.

#[path = "../../tests/common_model/mod.rs"]
mod common_model;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use common_model::{TempDir, write_bert};
use distilface_tests::Cluster;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// A certificate and its key, in PEM form.
struct Identity {
    certificate: String,
    key: String,
}

struct Authority {
    own: Identity,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(names: &[&str]) -> Authority {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("the names are names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = parameters.self_signed(&key).expect("it signs itself").pem();
        let own = Identity { certificate, key: key.serialize_pem() };
        Authority { own, issuer: Issuer::new(parameters, key) }
    }

    fn sign(&self, name: &str) -> Identity {
        let parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key can be made");
        let signed = parameters.signed_by(&key, &self.issuer).expect("the authority signs");
        Identity { certificate: signed.pem(), key: key.serialize_pem() }
    }
}

/// Gives the server an identity, or takes it away.
fn present(cluster: &Cluster, identity: Option<&Identity>) {
    let owner = fs::metadata(cluster.data()).expect("it runs");
    if let Some(identity) = identity {
        for (file, content) in
            [("server.crt", &identity.certificate), ("server.key", &identity.key)]
        {
            let file = cluster.data().join(file);
            fs::write(&file, content).expect("the data directory can be written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
            chown(&file, Some(owner.uid()), Some(owner.gid())).expect("it is ours to give");
        }
    }
    let ssl = if identity.is_some() { "on" } else { "off" };
    cluster.sql(&format!("ALTER SYSTEM SET ssl = {ssl}"));
    cluster.sql("SELECT pg_reload_conf()");
    // The postmaster reloads in its own time, and a new connection shows what it has.
    while cluster.one("SHOW ssl") != ssl {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

struct Client<'a> {
    home: &'a Path,
    cluster: &'a Cluster,
}

impl Client<'_> {
    fn address(&self, host: &str, parameters: &str) -> String {
        format!("postgres://postgres@{host}:{}/postgres?{parameters}", self.cluster.port())
    }

    /// Runs the program; gives what it said in the end.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_distilface-train"));
        command.args(arguments).env("HOME", self.home);
        command.env_remove("PGSSLMODE").env_remove("PGSSLROOTCERT");
        let output = command.output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    fn push(&self, host: &str, parameters: &str) -> Result<String, String> {
        let model = self.home.join("model");
        self.run(&["push", path(&model), &self.address(host, parameters)])
    }

    fn refused(&self, host: &str, parameters: &str, why: &str) {
        let said = self.push(host, parameters).expect_err(parameters);
        assert!(said.contains(why), "{host} {parameters}: {said}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

#[test]
fn an_address_says_how_its_connection_is_encrypted() {
    let temp = TempDir::new("tls");
    let home = temp.path();
    write_bert(&home.join("source"));
    let cluster = Cluster::builder().tcp().start();
    let client = Client { home, cluster: &cluster };
    let (source, model) = (home.join("source"), home.join("model"));
    client.run(&["import", path(&source), "--out", path(&model), "--name", "tiny"]).unwrap();

    // A server without TLS.
    client.push("localhost", "").unwrap();
    client.refused("localhost", "sslmode=require", "does not support TLS");

    // One that takes nothing else.
    fs::write(
        cluster.data().join("pg_hba.conf"),
        "local all all trust\nhostssl all all 127.0.0.1/32 trust\n",
    )
    .unwrap();
    let authority = Authority::new(&[]);
    let trusted = home.join("the authority.crt");
    fs::write(&trusted, &authority.own.certificate).unwrap();
    let stranger = home.join("stranger.crt");
    fs::write(&stranger, Authority::new(&[]).own.certificate).unwrap();
    present(&cluster, Some(&authority.sign("localhost")));
    let roots = |mode: &str, file: &Path| {
        format!("sslmode={mode}&sslrootcert={}", path(file).replace(' ', "%20"))
    };
    client.refused("localhost", "sslmode=disable", "no encryption");
    for parameters in ["", "sslmode=prefer", "sslmode=require"] {
        client.push("localhost", parameters).unwrap();
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        client.push("localhost", &roots(mode, &trusted)).unwrap();
        client.refused("localhost", &roots(mode, &stranger), "invalid peer certificate");
    }
    client.push("127.0.0.1", &roots("verify-ca", &trusted)).unwrap();
    client.refused("127.0.0.1", &roots("verify-full", &trusted), "not valid for name");
    client.refused("localhost", "sslmode=verify-full", "root.crt");
    client.refused("localhost", &roots("verify-full", &home.join("none")), "none");
    client.refused("localhost", "sslmode=verify-full&sslrootcert=system", "UnknownIssuer");
    client.refused("localhost", "sslmode=verify-all", "expected disable, prefer");
    // Where libpq looks by itself.
    fs::create_dir(home.join(".postgresql")).unwrap();
    fs::copy(&trusted, home.join(".postgresql/root.crt")).unwrap();
    client.push("localhost", "sslmode=verify-full").unwrap();
    client.refused("127.0.0.1", "sslmode=verify-full", "not valid for name");

    // A self-made certificate is trusted where it is its own authority.
    let own = Authority::new(&["localhost"]).own;
    present(&cluster, Some(&own));
    client.refused("localhost", "sslmode=verify-full", "invalid peer certificate");
    let file = home.join("own.crt");
    fs::write(&file, &own.certificate).unwrap();
    client.push("localhost", &roots("verify-full", &file)).unwrap();
    client.push("127.0.0.1", &roots("verify-ca", &file)).unwrap();
    client.refused("127.0.0.1", &roots("verify-full", &file), "not valid for name");

    // The rows of a query come the same way.
    cluster
        .sql("CREATE TABLE texts AS SELECT 'the cat ' || i AS body FROM generate_series(1, 9) i");
    let train = |parameters: &str| {
        let address = client.address("localhost", parameters);
        let out = home.join("trained");
        client.run(&[
            "train",
            "--preset",
            "distilface",
            "--base",
            path(&model),
            "--batch",
            "4",
            "--steps",
            "1",
            "--from",
            &address,
            "--query",
            "SELECT body FROM texts",
            "--out",
            path(&out),
        ])
    };
    let said = train(&roots("verify-full", &stranger)).unwrap_err();
    assert!(said.contains("connecting") && said.contains("invalid peer certificate"), "{said}");
    train(&roots("verify-full", &file)).unwrap();
}
