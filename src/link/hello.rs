//! HELLO: who a node is, what it accepts, and what two nodes make of each other's.
//!
//! Little-endian, in this order: magic 8 bytes, lowest and highest version u16, required and optional features u64,
//! network 16, node id 32, instance id 16, max_frame u32, max_message u32, heartbeat in ms u32; then TLVs of u8 type,
//! u16 length. A TLV with an unknown odd type is skipped, with an unknown even type refused.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::MAX_AGENT;
use crate::error::CloseReason;

use super::assembly::MAX_FRAMES;
use super::frame::MAX_PAYLOAD;
use super::identity::{LocalNode, NodeId, PeerInfo};
use super::{LinkError, text};

/// As PNG does: not ASCII, and with line ends that a careless gateway would change.
const MAGIC: [u8; 8] = *b"\x89RING\r\n\x1a";
const VERSIONS: RangeInclusive<u16> = 1..=1;
/// None yet; both would be bits of one numbering.
const REQUIRED: u64 = 0;
const OPTIONAL: u64 = 0;

/// What to tell people when a peer begins with something else.
pub(super) const NO_HELLO: &str = "not a hello; is the peer a ringlink node in message mode?";

/// Without TLVs.
pub(super) const MIN_LEN: usize = 104;
pub(super) const MAX_LEN: usize = 1024;
/// The least `max_frame` there may be: a hello fits.
pub(crate) const MIN_MAX_FRAME: u32 = MAX_LEN as u32;

const AGENT: u8 = 1;
const ADDRESS: u8 = 3;
const MAX_ADDRESS: usize = 128;
const MAX_ADDRESSES: usize = 8;

pub(super) fn encode(local: &LocalNode) -> Vec<u8> {
    let limits = &local.limits;
    let max_message = u32::try_from(limits.max_message).unwrap_or(u32::MAX);
    let heartbeat = u32::try_from(limits.heartbeat.as_millis()).unwrap_or(u32::MAX);
    let mut hello = [
        &MAGIC[..],
        &VERSIONS.start().to_le_bytes(),
        &VERSIONS.end().to_le_bytes(),
        &REQUIRED.to_le_bytes(),
        &OPTIONAL.to_le_bytes(),
        &local.network,
        local.node_id.as_bytes(),
        &local.instance_id,
        &limits.max_frame.to_le_bytes(),
        &max_message.to_le_bytes(),
        &heartbeat.to_le_bytes(),
    ]
    .concat();
    debug_assert_eq!(hello.len(), MIN_LEN);
    push_tlv(&mut hello, AGENT, text::clean(local.agent.as_bytes(), MAX_AGENT).as_bytes());
    // An address that is cut would be another one: all or nothing.
    for address in local.listen.iter().filter(|a| a.len() <= MAX_ADDRESS).take(MAX_ADDRESSES) {
        push_tlv(&mut hello, ADDRESS, address.as_bytes());
    }
    hello
}

/// Leaves out what does not fit.
fn push_tlv(hello: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if hello.len() + 3 + value.len() <= MAX_LEN {
        let len = u16::try_from(value.len()).expect("at most MAX_LEN");
        hello.push(kind);
        hello.extend_from_slice(&len.to_le_bytes());
        hello.extend_from_slice(value);
    }
}

/// The next `N` bytes of a hello.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], LinkError> {
    let (value, left) = rest.split_first_chunk().ok_or_else(|| malformed("it is too short"))?;
    *rest = left;
    Ok(*value)
}

fn malformed(why: &str) -> LinkError {
    LinkError::new(CloseReason::Protocol, format!("a malformed hello: {why}"))
}

/// Holds a peer's hello against ours.
///
/// Versions come before all that another version may have laid out differently.
pub(super) fn accept(payload: &[u8], local: &LocalNode) -> Result<PeerInfo, LinkError> {
    let rest = &mut &*payload;
    if take(rest)? != MAGIC {
        return Err(malformed(NO_HELLO));
    }
    let theirs = u16::from_le_bytes(take(rest)?)..=u16::from_le_bytes(take(rest)?);
    let version = common_version(VERSIONS, &theirs)?;
    let (required, optional) = (u64::from_le_bytes(take(rest)?), u64::from_le_bytes(take(rest)?));
    let features = common_features((REQUIRED, OPTIONAL), (required, optional))?;
    if take(rest)? != local.network {
        return Err(LinkError::of(CloseReason::WrongNetwork));
    }
    let mut peer = PeerInfo {
        version,
        features,
        node_id: NodeId::from_bytes(take(rest)?),
        instance_id: take(rest)?,
        max_frame: u32::from_le_bytes(take(rest)?),
        max_message: u32::from_le_bytes(take(rest)?) as usize,
        heartbeat: Duration::from_millis(u32::from_le_bytes(take(rest)?).into()),
        agent: String::new(),
        addresses: Vec::new(),
    };
    if !(MIN_MAX_FRAME..=MAX_PAYLOAD).contains(&peer.max_frame) {
        return Err(malformed("max_frame is below 1024 or above 16777215"));
    }
    // Else a message of the greatest length would need more frames than the peer itself can accept.
    let least = peer.max_frame as usize;
    if !(least..=least.saturating_mul(MAX_FRAMES as usize)).contains(&peer.max_message) {
        return Err(malformed("max_message is below max_frame or above 65536 times max_frame"));
    }
    read_tlvs(rest, &mut peer)?;
    Ok(peer)
}

fn read_tlvs(rest: &mut &[u8], peer: &mut PeerInfo) -> Result<(), LinkError> {
    let mut agents = 0;
    while !rest.is_empty() {
        let [kind] = take(rest)?;
        let len = u16::from_le_bytes(take(rest)?);
        let (value, left) =
            rest.split_at_checked(len.into()).ok_or_else(|| malformed("a TLV goes past the end"))?;
        *rest = left;
        match kind {
            AGENT => {
                agents += 1;
                peer.agent = text::clean(value, MAX_AGENT);
            }
            ADDRESS if value.len() > MAX_ADDRESS => return Err(malformed("an address of over 128 bytes")),
            ADDRESS => peer.addresses.push(text::clean(value, MAX_ADDRESS)),
            _ if kind % 2 == 1 => {}
            _ => return Err(malformed(&format!("unknown TLV {kind}"))),
        }
    }
    if agents > 1 || peer.addresses.len() > MAX_ADDRESSES {
        return Err(malformed("a TLV is there too often"));
    }
    Ok(())
}

fn common_version(ours: RangeInclusive<u16>, theirs: &RangeInclusive<u16>) -> Result<u16, LinkError> {
    if theirs.is_empty() {
        return Err(malformed("its highest version is below its lowest"));
    }
    let highest = *ours.end().min(theirs.end());
    if highest < *ours.start().max(theirs.start()) {
        let detail = format!(
            "versions {} to {} here, {} to {} there",
            ours.start(),
            ours.end(),
            theirs.start(),
            theirs.end()
        );
        return Err(LinkError::new(CloseReason::VersionMismatch, detail));
    }
    Ok(highest)
}

/// Each side's `(required, optional)` feature bits: what both have, if it has what each requires.
fn common_features(ours: (u64, u64), theirs: (u64, u64)) -> Result<u64, LinkError> {
    let (we_have, they_have) = (ours.0 | ours.1, theirs.0 | theirs.1);
    let missing = (ours.0 & !they_have, theirs.0 & !we_have);
    if missing != (0, 0) {
        let detail = format!("features {:#x} missing there, {:#x} missing here", missing.0, missing.1);
        return Err(LinkError::new(CloseReason::VersionMismatch, detail));
    }
    Ok(we_have & they_have)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::node;

    #[test]
    fn a_peer_learns_what_was_said() {
        let ours = node(1);
        let hello = encode(&ours);
        assert!(hello.len() <= MAX_LEN);
        let peer = accept(&hello, &node(2)).unwrap();
        assert_eq!(peer.node_id, ours.node_id);
        assert_eq!(peer.instance_id, ours.instance_id);
        assert_eq!((peer.agent, peer.addresses), (ours.agent.clone(), ours.listen.clone()));
        assert_eq!((peer.version, peer.features), (1, 0));
        assert_eq!((peer.max_frame, peer.max_message), (ours.limits.max_frame, ours.limits.max_message));
        assert_eq!(peer.heartbeat, ours.limits.heartbeat);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut ours = node(1);
        ours.agent = "a\n".repeat(100);
        ours.listen = vec!["x".repeat(128); 20];
        ours.listen.insert(0, "y".repeat(129));
        let hello = encode(&ours);
        assert!(hello.len() <= MAX_LEN);
        let peer = accept(&hello, &node(2)).unwrap();
        assert_eq!(peer.agent, "a?".repeat(32));
        assert_eq!(peer.addresses, vec!["x".repeat(128); 6]);
    }

    /// A hello of node 1 with `bytes` at `offset`, or appended, is refused by node 2.
    #[track_caller]
    fn refused(offset: usize, bytes: &[u8], reason: CloseReason) -> String {
        let mut hello = encode(&node(1));
        hello.truncate(MIN_LEN.max(offset));
        hello.resize(hello.len().max(offset + bytes.len()), 0);
        hello[offset..offset + bytes.len()].copy_from_slice(bytes);
        let error = accept(&hello, &node(2)).unwrap_err();
        assert_eq!(error.reason, reason, "{error:?}");
        error.detail.unwrap_or_default().into()
    }

    #[test]
    fn each_fault_has_its_reason() {
        use CloseReason::{Protocol, VersionMismatch, WrongNetwork};
        refused(0, b"\x89RING\n\x1a", Protocol);
        let detail = refused(8, &[5, 0, 9, 0], VersionMismatch);
        assert_eq!(detail, "versions 1 to 1 here, 5 to 9 there");
        refused(8, &[2, 0, 1, 0], Protocol);
        refused(8, &[0, 0, 0, 0], VersionMismatch);
        assert!(refused(12, &[4], VersionMismatch).contains("0x4 missing here"));
        refused(28, &[0xEE], WrongNetwork);
        refused(92, &1023_u32.to_le_bytes(), Protocol);
        refused(92, &(1_u32 << 24).to_le_bytes(), Protocol);
        refused(96, &1023_u32.to_le_bytes(), Protocol);
        refused(MIN_LEN, &[2, 0, 0], Protocol);
        refused(MIN_LEN, &[AGENT, 2, 0, b'a'], Protocol);
        refused(MIN_LEN, &[AGENT, 2], Protocol);
        refused(MIN_LEN, &[AGENT, 0, 0, AGENT, 0, 0], Protocol);
        refused(MIN_LEN, &[ADDRESS, 0, 0].repeat(9), Protocol);
        refused(MIN_LEN, &[&[ADDRESS, 129, 0][..], &[b'a'; 129]].concat(), Protocol);
        for len in 0..MIN_LEN {
            assert_eq!(accept(&encode(&node(1))[..len], &node(2)).unwrap_err().reason, Protocol);
        }
    }

    #[test]
    fn unknown_odd_tlvs_are_skipped() {
        let hello = [&encode(&node(1))[..], &[251, 3, 0, 1, 2, 3]].concat();
        assert_eq!(accept(&hello, &node(2)), accept(&encode(&node(1)), &node(2)));
    }

    #[test]
    fn features_are_those_of_both_and_the_required_are_required() {
        assert_eq!(common_features((0b001, 0b110), (0b010, 0b1001)).unwrap(), 0b011);
        assert!(common_features((0b100, 0), (0, 0b011)).is_err());
        assert!(common_features((0, 0b011), (0b100, 0)).is_err());
        assert_eq!(common_version(2..=5, &(1..=3)).unwrap(), 3);
        assert!(common_version(4..=5, &(1..=3)).is_err());
    }
}
