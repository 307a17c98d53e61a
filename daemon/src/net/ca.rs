//! The cluster's certificate authority, and who a certificate names.
//!
//! A node's certificate names its id, role and cluster in its subject, and nothing in it comes from the node but the
//! public key. Holds: what [`name`] finds in a certificate that verifies against the CA was put there by a manager.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use raftup_proto::{
    id::{ClusterId, NodeId},
    peer::Role,
    unit::UnixMillis,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long the CA lasts.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How long a node's certificate lasts.
pub const NODE_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How far the clocks of two nodes may differ: certificates begin that long before they are made.
pub const CLOCK_ALLOWANCE: Duration = Duration::from_secs(10 * 60);

/// Largest signing request that is looked at.
const MAX_CSR_BYTES: usize = 4 << 10;

/// A certificate that cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The signing request is malformed, or its signature does not fit its key.
    #[error("malformed certificate signing request")]
    Csr(#[source] rcgen::Error),
    /// The signing request is for a kind of key that is not used here.
    #[error("certificate signing request for another kind of key than ECDSA P-256")]
    KeyKind,
    /// The CA's certificate or key is not usable.
    #[error("unusable CA certificate or key")]
    Authority(#[source] rcgen::Error),
    /// Not a node's certificate.
    #[error("not a node's certificate: {0}")]
    Name(&'static str),
}

/// The CA with its key; managers have it.
pub struct Authority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    life: Duration,
}

impl Authority {
    /// A new CA.
    pub fn new(cluster: ClusterId, now: UnixMillis) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Authority)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "raftup CA");
        params.distinguished_name.push(DnType::OrganizationName, cluster.to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        set_times(&mut params, now, CA_LIFE);
        let certificate = params.self_signed(&key).map_err(CaError::Authority)?;
        let certificate = certificate.der().clone();
        Ok(Self { cluster, certificate, issuer: Issuer::new(params, key), life: NODE_LIFE })
    }

    /// The CA with this certificate and key, both DER. Errors: they cannot be read, or are not a CA of ours.
    pub fn load(certificate: &[u8], key: &[u8]) -> Result<Self, CaError> {
        let certificate = CertificateDer::from(certificate.to_vec());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
        let key =
            KeyPair::from_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map_err(CaError::Authority)?;
        let cluster = cluster_of(&certificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(CaError::Authority)?;
        Ok(Self { cluster, certificate, issuer, life: NODE_LIFE })
    }

    /// The same CA whose node certificates last another time than [`NODE_LIFE`].
    #[must_use]
    pub fn with_life(mut self, life: Duration) -> Self {
        self.life = life;
        self
    }

    /// The cluster that it is for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its private key, DER (PKCS 8); to be sealed before it is stored.
    pub fn key(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// SHA-256 of its certificate, which tokens carry.
    pub fn digest(&self) -> [u8; 32] {
        digest(&self.certificate)
    }

    /// A certificate for the public key of a signing request (DER); names in the request are not looked at.
    pub fn issue(&self, csr: &[u8], node: NodeId, role: Role, now: UnixMillis) -> Result<Vec<u8>, CaError> {
        if csr.len() > MAX_CSR_BYTES {
            return Err(CaError::Csr(rcgen::Error::CouldNotParseCertificationRequest));
        }
        let csr = CertificateSigningRequestDer::from(csr);
        let csr = CertificateSigningRequestParams::from_der(&csr).map_err(CaError::Csr)?;
        if csr.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(CaError::KeyKind);
        }
        let params = self.node_params(node, role, now)?;
        let certificate = params.signed_by(&csr.public_key, &self.issuer).map_err(CaError::Authority)?;
        Ok(certificate.der().to_vec())
    }

    fn node_params(&self, node: NodeId, role: Role, now: UnixMillis) -> Result<CertificateParams, CaError> {
        let host = format!("{node}.{}.raftup", self.cluster);
        let mut params = CertificateParams::new([host]).map_err(CaError::Authority)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        params.distinguished_name.push(DnType::OrganizationalUnitName, role.to_string());
        params.distinguished_name.push(DnType::OrganizationName, self.cluster.to_string());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_times(&mut params, now, self.life);
        Ok(params)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn set_times(params: &mut CertificateParams, now: UnixMillis, life: Duration) {
    let start = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_millis(now.0);
    params.not_before = start + now.saturating_sub(CLOCK_ALLOWANCE);
    params.not_after = start + now + life;
}

/// A key and what a manager needs to make a certificate for it.
pub struct KeyRequest {
    /// The private key, DER (PKCS 8).
    pub key: Vec<u8>,
    /// The signing request, DER.
    pub csr: Vec<u8>,
}

impl KeyRequest {
    /// A fresh key.
    pub fn generate() -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Csr)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(CaError::Csr)?;
        Ok(Self { key: key.serialize_der(), csr: csr.der().to_vec() })
    }
}

/// Whom a certificate names, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// What it may be.
    pub role: Role,
    /// When the certificate begins.
    pub not_before: UnixMillis,
    /// When it ends.
    pub not_after: UnixMillis,
}

/// Whom the certificate (DER) names; whether that is true is for the one who verified its signature to say.
pub fn name(certificate: &[u8]) -> Result<Name, CaError> {
    let parsed = parse(certificate)?;
    let subject = parsed.subject();
    let cluster = text(subject.iter_organization())?.parse().map_err(|_| CaError::Name("its cluster"))?;
    let node = text(subject.iter_common_name())?.parse().map_err(|_| CaError::Name("its node id"))?;
    let role = match text(subject.iter_organizational_unit())? {
        "manager" => Role::Manager,
        "worker" => Role::Worker,
        _ => return Err(CaError::Name("its role")),
    };
    let millis = |seconds: i64| UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let validity = parsed.validity();
    let not_before = millis(validity.not_before.timestamp());
    let not_after = millis(validity.not_after.timestamp());
    Ok(Name { cluster, node, role, not_before, not_after })
}

/// The cluster that a CA's certificate (DER) is for.
pub fn cluster_of(ca: &[u8]) -> Result<ClusterId, CaError> {
    text(parse(ca)?.subject().iter_organization())?.parse().map_err(|_| CaError::Name("its cluster"))
}

/// SHA-256 of a certificate.
pub fn digest(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// The wall clock, which certificates go by.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis::default().plus(since)
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, CaError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(CaError::Name("malformed")),
    }
}

/// The one attribute of its kind; two would let readers differ on which counts.
fn text<'a>(
    mut attributes: impl Iterator<Item = &'a x509_parser::prelude::AttributeTypeAndValue<'a>>,
) -> Result<&'a str, CaError> {
    match (attributes.next(), attributes.next()) {
        (Some(one), None) => one.as_str().map_err(|_| CaError::Name("its subject")),
        _ => Err(CaError::Name("its subject")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_what_the_manager_says() {
        let cluster = ClusterId::from_random(7);
        let made = UnixMillis(1_800_000_000_000);
        let authority = Authority::new(cluster, made).unwrap();
        let authority = Authority::load(authority.certificate(), authority.key()).unwrap();
        assert_eq!(authority.cluster(), cluster);
        // The request asks for another name and for a CA's powers; neither is looked at.
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(["n1.evil".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "n1");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let csr = params.serialize_request(&key).unwrap();
        let certificate = authority.issue(csr.der(), NodeId::new(12), Role::Worker, made).unwrap();
        let found = name(&certificate).unwrap();
        assert_eq!((found.cluster, found.node, found.role), (cluster, NodeId::new(12), Role::Worker));
        assert_eq!(found.not_after, made.plus(NODE_LIFE));
        assert_eq!(found.not_before.plus(CLOCK_ALLOWANCE), made);
        let parsed = parse(&certificate).unwrap();
        assert!(!parsed.is_ca());
        assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
    }

    #[test]
    fn other_keys_and_bytes_are_refused() {
        let authority = Authority::new(ClusterId::from_random(7), now()).unwrap();
        let issue = |csr: &[u8]| authority.issue(csr, NodeId::new(1), Role::Manager, now());
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        assert!(matches!(issue(csr.der()), Err(CaError::KeyKind)));
        let good = KeyRequest::generate().unwrap().csr;
        for length in 0..good.len() {
            assert!(issue(&good[..length]).is_err(), "{length}");
        }
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(issue(&forged).is_err(), "the signature no longer fits");
        assert!(issue(&good).is_ok());
        assert!(name(authority.certificate()).is_err(), "the CA is no node");
    }
}
