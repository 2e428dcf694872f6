"""One root and a leaf for each end, by openssl: P-256, a SPIFFE ID in each leaf."""

import subprocess

IDENTITY = "spiffe://cluster.local/ns/bench/sa/{}"

CONFIGURATION = """
[req]
distinguished_name = name
prompt = no
[name]
CN = bench
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
authorityKeyIdentifier = keyid
subjectAltName = URI:{identity}
"""


def create(directory, names, others=None):
    """Fills `directory/NAME/{ca.pem,leaf.pem,leaf.key}` for each name.

    `others`: the identities of more names, which are of no service account of the bench's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -config openssl.cnf"
    identities = {name: IDENTITY.format(name) for name in names} | (others or {})
    for position, (name, identity) in enumerate(identities.items()):
        configuration = CONFIGURATION.format(identity=identity)
        (directory / "openssl.cnf").write_text(configuration)
        if position == 0:
            run(directory, f"req -x509 -days 30 -extensions root {new_key} -keyout ca.key -out ca.pem")
        place = directory / name
        place.mkdir(exist_ok=True)
        run(directory, f"req -new {new_key} -keyout {name}/leaf.key -out {name}/leaf.csr")
        run(
            directory,
            f"x509 -req -days 30 -in {name}/leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial"
            f" -extfile openssl.cnf -extensions leaf -out {name}/leaf.pem",
        )
        (place / "ca.pem").write_bytes((directory / "ca.pem").read_bytes())


def run(directory, arguments):
    """Runs openssl there; its messages only matter when it fails."""
    done = subprocess.run(["openssl", *arguments.split()], cwd=directory, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments}: {done.stderr}")
