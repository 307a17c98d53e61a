//! Both sides of the handshake.
//!
//! Holds: TLS 1.3 alone, with one explicit provider; nothing is resumed (a resumed session would show the certificate
//! of long ago); the caller's certificate is verified where it gives one, and what it may do without is decided per
//! stream. Certificates are believed for the node that they name, never for a host name.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn::{
    IdleTimeout, NoneTokenLog, TransportConfig, ValidationTokenConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use raftup_proto::{
    id::{ClusterId, NodeId},
    peer::{ALPN, Role},
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};

use super::{
    Identity,
    ca::{self, Name},
    congestion::SteadyConfig,
};

/// A connection on which nothing was heard for so long is over. More than three of [`KEEP_ALIVE`], so that single
/// losses do not end it.
const IDLE: Duration = Duration::from_secs(4);

/// How often each side makes the other answer.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// First guess of the round trip, so that the first lost packet of a dial is sent again soon.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(100);

/// What the other side of a connection may have open and underway.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Streams both ways.
    pub(super) bi: u32,
    /// Streams one way: gossip, and the greeting.
    pub(super) uni: u32,
    /// Bytes on all streams together that were sent and not read yet.
    pub(super) bytes: u32,
}

/// Before it is known who it is: one request to join, or the greeting.
const STRANGER: Window = Window { bi: 1, uni: 1, bytes: 128 << 10 };

/// For a worker: the limits of each kind of stream, and sessions.
const WORKER: Window = Window { bi: 96, uni: 16, bytes: 2 << 20 };

/// For a manager. Streams whose readers wait (logs that a terminal does not take) leave room for Raft.
const MANAGER: Window = Window { bi: 256, uni: 16, bytes: 24 << 20 };

impl Window {
    /// What a member of the role gets.
    pub(super) fn of(role: Role) -> Self {
        match role {
            Role::Manager => MANAGER,
            Role::Worker => WORKER,
        }
    }

    /// From now on.
    pub(super) fn set(self, connection: &quinn::Connection) {
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(self.bi));
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(self.uni));
        connection.set_receive_window(VarInt::from_u32(self.bytes));
    }
}

/// Datagrams (gossip) that wait to be read; older ones are dropped for newer ones.
const DATAGRAMS_BYTES: usize = 64 << 10;

/// Incoming connections that wait to be looked at; more are dropped. Looking at one takes microseconds.
const MAX_WAITING: usize = 256;

/// Bytes kept for one of them beside its first packet, and for all. A client's first message takes two packets.
const WAITING_BYTES: (u64, u64) = (4 << 10, 256 << 10);

/// How long the answer to a Retry is good. No less than a dial lasts.
const RETRY_TOKEN_LIFE: Duration = Duration::from_secs(5);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn transport(window: Window) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::from(VarInt::from_u32(u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX)));
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(FIRST_ROUND_TRIP)
        .congestion_controller_factory(Arc::new(SteadyConfig))
        .max_concurrent_bidi_streams(VarInt::from_u32(window.bi))
        .max_concurrent_uni_streams(VarInt::from_u32(window.uni))
        .receive_window(VarInt::from_u32(window.bytes))
        .datagram_receive_buffer_size(Some(DATAGRAMS_BYTES));
    Arc::new(transport)
}

/// How a node accepts connections. Errors: the certificate and its key do not fit.
pub(super) fn server(identity: &Identity) -> Result<Arc<QuicServerConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca_der().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut tls = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    let tls = QuicServerConfig::try_from(tls).map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Arc::new(tls))
}

/// The accepting side of a node, with a fresh key for the tokens of Retry packets.
pub(super) fn accepting(crypto: Arc<QuicServerConfig>) -> quinn::ServerConfig {
    // Tokens from before this connection attempt validate nothing.
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0).log(Arc::new(NoneTokenLog));
    let mut config = quinn::ServerConfig::with_crypto(crypto);
    config
        .transport_config(transport(STRANGER))
        .validation_token_config(tokens)
        .retry_token_lifetime(RETRY_TOKEN_LIFE)
        .migration(false)
        .max_incoming(MAX_WAITING)
        .incoming_buffer_size(WAITING_BYTES.0)
        .incoming_buffer_size_total(WAITING_BYTES.1);
    config
}

/// Whom a dialling node believes.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// The node, of this cluster's CA.
    Member { ca: CertificateDer<'static>, cluster: ClusterId, node: NodeId },
    /// Any manager whose certificate is of the CA with this digest.
    Pinned { ca_digest: [u8; 32] },
}

/// Why a certificate is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistrust {
    /// It is of another CA.
    Foreign,
    /// It begins in the future.
    NotYet,
    /// It has ended.
    Expired,
    /// It names another node.
    WrongNode(NodeId),
    /// It names a worker, and only a manager may be believed.
    NotManager,
    /// It is not a node's certificate.
    Malformed,
}

/// Says, after a dial, why the other side was not believed.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict(Arc<Mutex<Option<Mistrust>>>);

impl Verdict {
    pub(super) fn get(&self) -> Option<Mistrust> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mistrust: Mistrust) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(mistrust);
    }
}

/// The dialling side, with the node's certificate if it has one.
pub(super) fn client(
    identity: Option<&Identity>,
    trust: Trust,
) -> Result<(quinn::ClientConfig, Verdict), rustls::Error> {
    let verdict = Verdict::default();
    let verifier = Verifier { trust, verdict: verdict.clone(), provider: provider() };
    let tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut tls = match identity {
        Some(identity) => tls.with_client_auth_cert(identity.chain(), identity.key())?,
        None => tls.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::disabled();
    tls.enable_sni = false;
    let tls = QuicClientConfig::try_from(tls).map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(transport(STRANGER));
    Ok((config, verdict))
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    verdict: Verdict,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Mistrust> {
        let ca = match &self.trust {
            Trust::Member { ca, .. } => ca,
            Trust::Pinned { ca_digest } => {
                others.iter().find(|other| ca::digest(other) == *ca_digest).ok_or(Mistrust::Foreign)?
            }
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned()).map_err(|_| Mistrust::Malformed)?;
        let parsed = ParsedCertificate::try_from(certificate).map_err(|_| Mistrust::Malformed)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, others, now, algorithms)
            .map_err(mistrust)?;
        self.check_name(&ca::name(certificate).map_err(|_| Mistrust::Malformed)?)
    }

    fn check_name(&self, name: &Name) -> Result<(), Mistrust> {
        match &self.trust {
            Trust::Member { cluster, .. } if name.cluster != *cluster => Err(Mistrust::Foreign),
            Trust::Member { node, .. } if name.node != *node => Err(Mistrust::WrongNode(name.node)),
            Trust::Pinned { .. } if name.role != Role::Manager => Err(Mistrust::NotManager),
            Trust::Member { .. } | Trust::Pinned { .. } => Ok(()),
        }
    }
}

fn mistrust(error: rustls::Error) -> Mistrust {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    let rustls::Error::InvalidCertificate(error) = error else { return Mistrust::Malformed };
    if matches!(error, NotValidYet | NotValidYetContext { .. }) {
        Mistrust::NotYet
    } else if matches!(error, Expired | ExpiredContext { .. }) {
        Mistrust::Expired
    } else if matches!(error, UnknownIssuer | BadSignature) {
        Mistrust::Foreign
    } else {
        Mistrust::Malformed
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.check(certificate, others, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(mistrust) => {
                self.verdict.set(mistrust);
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificates that the other side of a connection has shown, its own first; verified by the handshake.
pub(super) fn shown(connection: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok().map(|chain| *chain)
}
