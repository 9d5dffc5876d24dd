//! What to do with the bytes of a query: answer, ask somebody else, or nothing. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::names::{DOMAIN, Known, Names, Owner};

/// Longest answer by UDP to who did not say that more can be taken.
pub const UDP_BYTES_PLAIN: u16 = 512;
/// Longest answer by UDP at all: one that no link on the way has to cut into pieces.
pub const UDP_BYTES_MAX: u16 = 1232;
/// Length of a message's header.
const HEADER_BYTES: usize = 12;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a packet.
    Udp,
    /// Over a connection.
    Tcp,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it is no query.
    Ignore,
    /// Send this.
    Reply(Vec<u8>),
    /// Ask a name server of the host.
    Forward(Box<Foreign>),
}

/// A question for somebody else, and how its answer may look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    query: Message,
    transport: Transport,
}

/// Decides about the bytes of one query.
#[must_use]
pub fn decide(bytes: &[u8], names: &Names, transport: Transport) -> Decision {
    // Whoever answers an answer can be made to talk to itself for ever.
    let Some(flags) = bytes.get(2).filter(|_| bytes.len() >= HEADER_BYTES) else { return Decision::Ignore };
    if flags & 0x80 != 0 {
        return Decision::Ignore;
    }
    let Ok(query) = Message::from_vec(bytes) else {
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        return reply_bytes(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), Transport::Udp, None);
    };
    let refuse = |code| reply_bytes(&response(&query, code), transport, query.edns.as_ref());
    if query.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [question] = &query.queries[..] else { return refuse(ResponseCode::FormErr) };
    if !query.answers.is_empty() || !query.authorities.is_empty() {
        return refuse(ResponseCode::FormErr);
    }
    if question.query_class() != DNSClass::IN || matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return refuse(ResponseCode::Refused);
    }
    match own_answer(question, names) {
        Some(Ok(answers)) => {
            let mut reply = response(&query, ResponseCode::NoError);
            reply.metadata.authoritative = true;
            reply.add_answers(answers);
            reply_bytes(&reply, transport, query.edns.as_ref())
        }
        Some(Err(code)) => {
            let mut reply = response(&query, code);
            reply.metadata.authoritative = true;
            reply_bytes(&reply, transport, query.edns.as_ref())
        }
        None => Decision::Forward(Box::new(Foreign { query, transport })),
    }
}

/// The records we have on this, or that we know there are none; `None` if somebody else is to be asked.
fn own_answer(question: &Query, names: &Names) -> Option<Result<Vec<Record>, ResponseCode>> {
    if question.query_type() == RecordType::PTR
        && let Some(address) = reverse_address(question.name())
    {
        return match names.owner(address) {
            Owner::Foreign => None,
            Owner::Nobody => Some(Err(ResponseCode::NXDomain)),
            Owner::Container(name) => {
                let target = Name::from_ascii(format!("{name}.{DOMAIN}."));
                let record = target.map(|target| record(question, RData::PTR(PTR(target))));
                // A name that no message can hold: the address has one, but not here.
                Some(Ok(record.into_iter().collect()))
            }
        };
    }
    match names.find(&plain_name(question.name())?) {
        Known::Foreign => None,
        Known::Nobody => Some(Err(ResponseCode::NXDomain)),
        Known::Addresses(addresses) => {
            let wanted = question.query_type();
            let data = addresses.into_iter().filter_map(|address| match address {
                IpAddr::V4(address) => matches!(wanted, RecordType::A | RecordType::ANY).then(|| RData::A(A(address))),
                IpAddr::V6(address) => {
                    matches!(wanted, RecordType::AAAA | RecordType::ANY).then(|| RData::AAAA(AAAA(address)))
                }
            });
            Some(Ok(data.map(|data| record(question, data)).collect()))
        }
    }
}

/// A record that nobody may remember: names follow their containers at once.
fn record(question: &Query, data: RData) -> Record {
    Record::from_rdata(question.name().clone(), 0, data)
}

/// The name in lower case without the dot at its end; `None` for names that no container can have.
fn plain_name(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|&byte| char::from(byte.to_ascii_lowercase())));
    }
    (!text.is_empty()).then_some(text)
}

/// The one address whose name is asked for.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    let whole = if net.addr().is_ipv4() { 32 } else { 128 };
    (net.prefix_len() == whole).then(|| net.addr())
}

/// The beginning of an answer to `query`.
fn response(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = query.metadata.checking_disabled;
    reply.metadata.response_code = code;
    reply.queries = query.queries.first().cloned().into_iter().collect();
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        reply.edns = Some(edns);
    }
    reply
}

/// How long an answer to this client may be.
fn most_bytes(transport: Transport, edns: Option<&Edns>) -> usize {
    match (transport, edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => UDP_BYTES_PLAIN.into(),
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX).into(),
    }
}

fn reply_bytes(reply: &Message, transport: Transport, edns: Option<&Edns>) -> Decision {
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= most_bytes(transport, edns) => Decision::Reply(bytes),
        Ok(_) => reply.truncate().to_vec().map_or(Decision::Ignore, Decision::Reply),
        Err(_) => Decision::Ignore,
    }
}

impl Foreign {
    /// How the question came, and is to be asked.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The question anew, in our words and under `id`: what a container sends never reaches a name server that perhaps
    /// hears only its own host. `None` if it cannot be said.
    #[must_use]
    pub fn to_upstream(&self, id: u16) -> Option<Vec<u8>> {
        let mut asked = Message::new(id, MessageType::Query, OpCode::Query);
        asked.metadata.recursion_desired = self.query.metadata.recursion_desired;
        asked.metadata.checking_disabled = self.query.metadata.checking_disabled;
        asked.metadata.authentic_data = self.query.metadata.authentic_data;
        asked.queries.clone_from(&self.query.queries);
        if let Some(given) = &self.query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(given.max_payload().clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX));
            edns.set_dnssec_ok(given.flags().dnssec_ok);
            asked.edns = Some(edns);
        }
        asked.to_vec().ok()
    }

    /// What a name server said to it under `id`, if it is an answer to this question at all.
    #[must_use]
    pub fn from_upstream(&self, id: u16, bytes: &[u8]) -> Option<Said> {
        let said = Message::from_vec(bytes).ok()?;
        let ours = said.metadata.id == id
            && said.metadata.message_type == MessageType::Response
            && said.metadata.op_code == OpCode::Query
            && said.queries == self.query.queries;
        if !ours {
            return None;
        }
        let given_up = matches!(said.metadata.response_code, ResponseCode::ServFail | ResponseCode::Refused);
        let mut reply = bytes.to_vec();
        reply.get_mut(..2)?.copy_from_slice(&self.query.metadata.id.to_be_bytes());
        if reply.len() > most_bytes(self.transport, self.query.edns.as_ref()) {
            let mut short = response(&self.query, said.metadata.response_code);
            short.metadata.truncation = true;
            reply = short.to_vec().ok()?;
        }
        Some(if given_up { Said::Nothing(reply) } else { Said::Answer(reply) })
    }

    /// What the client gets when nobody answers.
    #[must_use]
    pub fn failure(&self) -> Option<Vec<u8>> {
        response(&self.query, ResponseCode::ServFail).to_vec().ok()
    }
}

/// A name server's word; the bytes are for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// An answer, be it that there is no such name.
    Answer(Vec<u8>),
    /// It cannot or will not tell; another one may.
    Nothing(Vec<u8>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::tests::names;
    use hickory_proto::op::Metadata;
    use proptest::prelude::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        query
    }

    fn replied(query: &Message) -> Message {
        match decide(&query.to_vec().unwrap(), &names(), Transport::Udp) {
            Decision::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn forwarded(query: &Message, transport: Transport) -> Foreign {
        match decide(&query.to_vec().unwrap(), &names(), transport) {
            Decision::Forward(question) => *question,
            other => panic!("{other:?}"),
        }
    }

    /// Code, and the data of the answers.
    fn told(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let reply = replied(&query(name, kind));
        assert_eq!((reply.metadata.id, reply.metadata.message_type), (7, MessageType::Response));
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
        (reply.metadata.response_code, reply.answers.iter().map(|record| record.data.to_string()).collect())
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn containers_are_found_by_name_in_both_families() {
        let fine = ResponseCode::NoError;
        assert_eq!(told("web.", RecordType::A), (fine, strings(&["10.87.0.2"])));
        assert_eq!(told("WeB.Insula.", RecordType::AAAA), (fine, strings(&["fd49::2"])));
        assert_eq!(told("shop.", RecordType::A), (fine, strings(&["10.87.0.2", "10.87.0.4"])));
        assert_eq!(told("web.", RecordType::MX), (fine, Vec::new()));
        assert_eq!(told("other.", RecordType::AAAA), (fine, Vec::new()));
        assert_eq!(told("insula.", RecordType::SOA), (fine, Vec::new()));
    }

    #[test]
    fn nobody_of_that_name_is_said_without_asking_anybody() {
        for name in ["gone.", "gone.insula.", "never.insula.", "a.web.insula."] {
            assert_eq!(told(name, RecordType::A), (ResponseCode::NXDomain, Vec::new()), "{name}");
        }
    }

    #[test]
    fn addresses_have_names() {
        let fine = ResponseCode::NoError;
        assert_eq!(told("3.0.87.10.in-addr.arpa.", RecordType::PTR), (fine, strings(&["db.insula."])));
        let v6 = Name::from("fd49::3".parse::<std::net::Ipv6Addr>().unwrap()).to_string();
        assert_eq!(told(&v6, RecordType::PTR), (fine, strings(&["db.insula."])));
        assert_eq!(told("9.0.87.10.in-addr.arpa.", RecordType::PTR), (ResponseCode::NXDomain, Vec::new()));
        for foreign in ["1.2.0.192.in-addr.arpa.", "87.10.in-addr.arpa.", "x.in-addr.arpa."] {
            forwarded(&query(foreign, RecordType::PTR), Transport::Udp);
        }
    }

    #[test]
    fn what_is_no_plain_question_is_refused_by_its_code() {
        let mut two = query("web.", RecordType::A);
        two.add_query(two.queries[0].clone());
        assert_eq!(replied(&two).metadata.response_code, ResponseCode::FormErr);
        let mut update = query("web.", RecordType::A);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(replied(&update).metadata.response_code, ResponseCode::NotImp);
        assert_eq!(replied(&query("web.", RecordType::AXFR)).metadata.response_code, ResponseCode::Refused);
        let mut chaos = query("version.bind.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(replied(&chaos).metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn answers_are_never_answered() {
        let mut answer = query("web.", RecordType::A);
        answer.metadata.message_type = MessageType::Response;
        assert_eq!(decide(&answer.to_vec().unwrap(), &names(), Transport::Udp), Decision::Ignore);
        assert_eq!(decide(b"", &names(), Transport::Udp), Decision::Ignore);
        assert_eq!(decide(&[0; 11], &names(), Transport::Udp), Decision::Ignore);
    }

    #[test]
    fn a_foreign_question_is_asked_anew_and_under_another_id() {
        let mut asked = query("Example.org.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(65_000);
        edns.set_dnssec_ok(true);
        asked.edns = Some(edns);
        let question = forwarded(&asked, Transport::Udp);
        let sent = Message::from_vec(&question.to_upstream(99).unwrap()).unwrap();
        assert_eq!((sent.metadata.id, &sent.queries), (99, &asked.queries));
        let edns = sent.edns.unwrap();
        assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (UDP_BYTES_MAX, true));
    }

    fn upstream_answer(id: u16, name: &str, count: u8) -> Message {
        let mut answer = Message::response(id, OpCode::Query);
        answer.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        for last in 0..count {
            let name = Name::from_ascii(name).unwrap();
            answer.add_answer(Record::from_rdata(name, 60, RData::A(A([192, 0, 2, last].into()))));
        }
        answer
    }

    #[test]
    fn only_an_answer_to_this_question_under_this_id_is_believed() {
        let question = forwarded(&query("example.org.", RecordType::A), Transport::Udp);
        let said = |message: &Message| question.from_upstream(99, &message.to_vec().unwrap());
        let good = upstream_answer(99, "example.org.", 1);
        let Some(Said::Answer(bytes)) = said(&good) else { panic!() };
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!((reply.metadata.id, reply.answers), (7, good.answers.clone()));
        assert_eq!(said(&upstream_answer(98, "example.org.", 1)), None);
        assert_eq!(said(&upstream_answer(99, "example.com.", 1)), None);
        let mut question_back = good.clone();
        question_back.metadata = Metadata::new(99, MessageType::Query, OpCode::Query);
        assert_eq!(said(&question_back), None);
        let mut failed = good.clone();
        failed.metadata.response_code = ResponseCode::ServFail;
        assert!(matches!(said(&failed), Some(Said::Nothing(_))));
        assert_eq!(question.from_upstream(99, &good.to_vec().unwrap()[..30]), None);
    }

    #[test]
    fn an_answer_too_long_for_its_packet_says_that_more_can_be_had() {
        let long = upstream_answer(99, "example.org.", 200).to_vec().unwrap();
        let by_packet = forwarded(&query("example.org.", RecordType::A), Transport::Udp);
        let Some(Said::Answer(bytes)) = by_packet.from_upstream(99, &long) else { panic!() };
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(reply.metadata.truncation && bytes.len() <= UDP_BYTES_PLAIN.into());
        let by_stream = forwarded(&query("example.org.", RecordType::A), Transport::Tcp);
        let Some(Said::Answer(bytes)) = by_stream.from_upstream(99, &long) else { panic!() };
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 200);
    }

    #[test]
    fn a_failure_is_an_answer_to_the_question() {
        let question = forwarded(&query("example.org.", RecordType::A), Transport::Udp);
        let reply = Message::from_vec(&question.failure().unwrap()).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::ServFail));
        assert_eq!(reply.queries, query("example.org.", RecordType::A).queries);
    }

    proptest! {
        #[test]
        fn any_bytes_are_decided_about(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let decision = decide(&bytes, &names(), Transport::Udp);
            if let Decision::Reply(reply) = &decision {
                prop_assert!(reply.len() <= UDP_BYTES_MAX.into());
                prop_assert_eq!(&reply[..2], &bytes[..2]);
                prop_assert!(reply[2] & 0x80 != 0);
            }
            if let Decision::Forward(question) = decision {
                prop_assert!(question.to_upstream(99).is_some());
            }
        }

        #[test]
        fn a_question_with_changed_bytes_is_decided_about(at in 0_usize..60, to in any::<u8>(), kind in any::<u16>(), cut in 0_usize..60) {
            let mut asked = query("web.insula.", RecordType::from(kind));
            asked.edns = Some(Edns::new());
            let mut bytes = asked.to_vec().unwrap();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Decision::Forward(question) = decide(&bytes, &names(), Transport::Tcp) {
                prop_assert!(question.to_upstream(99).is_some());
                prop_assert!(question.failure().is_some());
            }
        }

        #[test]
        fn any_bytes_of_a_name_server_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600), head in any::<bool>()) {
            let question = forwarded(&query("example.org.", RecordType::A), Transport::Udp);
            let mut said = if head { upstream_answer(99, "example.org.", 1).to_vec().unwrap() } else { Vec::new() };
            said.extend(bytes);
            if let Some(Said::Answer(reply) | Said::Nothing(reply)) = question.from_upstream(99, &said) {
                prop_assert!(reply.len() <= UDP_BYTES_PLAIN.into());
            }
        }
    }
}
