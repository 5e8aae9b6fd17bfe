"""A certificate authority for the tests, and the certificates that it signs."""

import dataclasses
import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclasses.dataclass
class Certificate:
    """PEM files: the authority to trust, the chain to serve, and its key."""

    authority: pathlib.Path
    cert: pathlib.Path
    key: pathlib.Path
    leaf: x509.Certificate | None = None
    root: x509.Certificate | None = None
    root_key: object = None

    def statement(self, status=ocsp.OCSPCertStatus.GOOD, days: float = 7) -> bytes:
        """Returns what the authority says about the certificate, good for so many days."""
        now = datetime.datetime.now(datetime.UTC)
        revoked = now if status == ocsp.OCSPCertStatus.REVOKED else None
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=self.leaf, issuer=self.root, algorithm=hashes.SHA1(), cert_status=status,
            this_update=now - datetime.timedelta(days=8),
            next_update=now + datetime.timedelta(days=days),
            revocation_time=revoked, revocation_reason=None,
        ).responder_id(ocsp.OCSPResponderEncoding.HASH, self.root)
        response = builder.sign(self.root_key, hashes.SHA256())
        return response.public_bytes(serialization.Encoding.DER)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def builder(subject: str, issuer: str, public_key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject)).issuer_name(name(issuer)).public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
    )


NAMES = ("e2e.test", "small.test", "localhost")
ADDRESSES = ("127.0.0.1", "::1")


def ecdsa_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def make(
    folder: pathlib.Path, names=NAMES, addresses=ADDRESSES, new_key=ecdsa_key
) -> Certificate:
    """Makes an authority and a certificate for the given names in `folder`."""
    root_key, key = new_key(), new_key()
    root = (
        builder("ringway tests", "ringway tests", root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    general = [x509.DNSName(host) for host in names]
    general += [x509.IPAddress(ipaddress.ip_address(host)) for host in addresses]
    leaf = (
        builder("e2e.test", "ringway tests", key.public_key())
        .add_extension(x509.SubjectAlternativeName(general), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()),
            critical=False,
        )
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    made = Certificate(folder / "authority.pem", folder / "edge.pem", folder / "edge.key",
                       leaf, root, root_key)
    made.authority.write_bytes(root.public_bytes(pem))
    made.cert.write_bytes(leaf.public_bytes(pem))
    made.key.write_bytes(key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))
    made.key.chmod(0o600)
    return made


@dataclasses.dataclass
class Identity:
    """A client's certificate, and PEM files with its chain and its key."""

    leaf: x509.Certificate
    cert: pathlib.Path
    key: pathlib.Path

    @property
    def der(self) -> bytes:
        return self.leaf.public_bytes(serialization.Encoding.DER)


class ClientAuthority:
    """An authority that issues clients' certificates, and lists of those that it has revoked."""

    def __init__(self, folder: pathlib.Path, common: str):
        self.folder, self.common, self.key = folder, common, ecdsa_key()
        self.root = (
            builder(common, common, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.pem = folder / f"{common}.pem"
        self.pem.write_bytes(self.root.public_bytes(serialization.Encoding.PEM))

    def issue(self, common: str, days: float = 30) -> Identity:
        """Issues a certificate that expires in so many days."""
        key = ecdsa_key()
        now = datetime.datetime.now(datetime.UTC)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([
                x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Clients, Inc."),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]))
            .issuer_name(name(self.common)).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(
                x509.SubjectAlternativeName([
                    x509.DNSName(f"{common}.clients.test"),
                    x509.UniformResourceIdentifier(f"spiffe://clients.test/{common}"),
                ]),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        made = Identity(leaf, self.folder / f"{common}.pem", self.folder / f"{common}.key")
        made.cert.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ))
        made.key.chmod(0o600)
        return made

    def revoke(self, *revoked: Identity, days: float = 7) -> bytes:
        """Returns the list of these, which expires in so many days."""
        now = datetime.datetime.now(datetime.UTC)
        lists = (
            x509.CertificateRevocationListBuilder().issuer_name(name(self.common))
            .last_update(now - datetime.timedelta(days=60))
            .next_update(now + datetime.timedelta(days=days))
            .add_extension(x509.CRLNumber(1), critical=False)
        )
        for identity in revoked:
            lists = lists.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(identity.leaf.serial_number)
                .revocation_date(now).build()
            )
        return lists.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
