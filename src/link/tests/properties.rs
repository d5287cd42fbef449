//! Whatever is split is whole again, and whatever is broken ends in one error.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A message as it may be framed, with frames between that mean nothing to the user.
fn framed() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>)> {
    let part = || vec(any::<u8>(), 1..700);
    let message = (vec(part(), 0..4), vec(any::<u8>(), 0..700)).prop_map(|(parts, last)| {
        let bytes = parts.iter().map(|part| data(true, part)).chain([data(false, &last)]).collect::<Vec<_>>();
        (bytes.concat(), Some([parts.concat(), last].concat()))
    });
    let control = prop_oneof![
        any::<[u8; 8]>().prop_map(|payload| control(Kind::Ping, &payload)),
        any::<[u8; 16]>().prop_map(|payload| control(Kind::Pong, &payload)),
        (128_u8.., vec(any::<u8>(), 0..700)).prop_map(|(k, p)| control(Kind::Ignorable(k), &p)),
    ];
    prop_oneof![3 => message, 1 => control.prop_map(|bytes| (bytes, None))]
}

/// `bytes` cut at these places.
fn pieces<'b>(bytes: &'b [u8], cuts: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn any_split_is_whole_again(
        items in vec(framed(), 0..12),
        cuts in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let bytes = [hello()].into_iter().chain(items.iter().map(|i| i.0.clone())).collect::<Vec<_>>().concat();
        let messages = items.into_iter().filter_map(|item| item.1).map(Got::Message);
        let expected: Vec<_> = [Got::Established].into_iter().chain(messages).collect();
        let mut link = fresh();
        let mut got = Vec::new();
        for piece in pieces(&bytes, &cuts) {
            let (more, result) = receive(&mut link, piece, START);
            prop_assert_eq!(result, Ok(()));
            got.extend(more);
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!(link.handle_eof(START), Ok(()));
    }

    #[test]
    fn any_damage_gives_a_beginning_of_the_events_or_one_error(
        items in vec(framed(), 1..6),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cuts in vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut bytes = items.iter().map(|i| i.0.clone()).collect::<Vec<_>>().concat();
        for (at, value) in damage {
            *at.get_mut(&mut bytes) ^= value;
        }
        let mut link = established();
        let mut first: Option<LinkError> = None;
        for piece in pieces(&bytes, &cuts) {
            let (got, result) = receive(&mut link, piece, START);
            if let Some(error) = &first {
                prop_assert!(got.is_empty());
                prop_assert_eq!(&result, &Err(error.clone()));
            }
            first = first.or(result.err());
            let Link::Message(link) = &link else { panic!() };
            prop_assert!(link.memory() <= 2 * bytes.len().max(4096));
        }
        if let Some(error) = first {
            prop_assert!(error.reason.code() < 100);
            prop_assert_eq!(farewells(&mut link).len(), 1);
        }
    }

    #[test]
    fn what_is_framed_for_a_peer_arrives(len in 0_usize..16 << 10, chunk in 1_usize..5000) {
        let mut link = established();
        let message: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        let frames = link.framing().frames(len).map(|(header, range)| [&header, &message[range]].concat());
        let bytes = frames.collect::<Vec<_>>().concat();
        let mut got = Vec::new();
        for piece in bytes.chunks(chunk) {
            let (more, result) = receive(&mut link, piece, START);
            prop_assert_eq!(result, Ok(()));
            got.extend(more);
        }
        prop_assert_eq!(got, vec![Got::Message(message)]);
    }
}
