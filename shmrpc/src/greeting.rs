//! What client and server tell each other about services when they meet: names and schemas one way, a method table
//! the other.

use std::collections::HashMap;
use std::sync::Arc;

use shmrpc_transport::message::Refusal;
use shmrpc_transport::rkyv;
use shmrpc_transport::rkyv::util::AlignedVec;

use crate::dispatch::Service;
use crate::schema::ServiceSchema;

/// The method id of a method that the server does not have.
const ABSENT: u16 = u16::MAX;

/// (service, [(method, one-way, hash, text)])
type Question = (String, Vec<(String, bool, u64, String)>);

/// What a client asks: which ids do these methods of this service have?
pub(crate) fn question(schema: &ServiceSchema) -> Vec<u8> {
    let methods = schema.methods.iter();
    let methods =
        methods.map(|method| (method.name.to_owned(), method.oneway, method.hash, method.text.clone()));
    let question: Question = (schema.name.to_owned(), methods.collect());
    to_bytes(&question)
}

/// What a client made of the answer: ids by the method's index in the trait.
pub(crate) fn read_answer(schema: &ServiceSchema, answer: &[u8]) -> Result<Box<[Option<u16>]>, String> {
    let ids: Vec<u16> = from_bytes::<Vec<u16>>(answer)?;
    if ids.len() != schema.methods.len() {
        return Err(format!("{} ids for {} methods", ids.len(), schema.methods.len()));
    }
    let length = schema.methods.iter().map(|method| usize::from(method.index) + 1).max().unwrap_or(0);
    let mut table = vec![None; length].into_boxed_slice();
    for (method, id) in schema.methods.iter().zip(ids) {
        if let Some(place) = table.get_mut(usize::from(method.index)) {
            *place = (id != ABSENT).then_some(id);
        }
    }
    Ok(table)
}

/// What a server serves, by the ids of one connection.
pub(crate) type Table = Vec<(Arc<dyn Service>, u16)>;

/// Answers a client's question.
pub(crate) fn answer(services: &[Arc<dyn Service>], question: &[u8]) -> Result<(Vec<u8>, Table), String> {
    let (name, methods) = from_bytes::<Question>(question)?;
    let schemas: Vec<_> = services.iter().map(|service| service.schema()).collect();
    let found = schemas.iter().zip(services).find(|(schema, _)| schema.name == name);
    let Some((schema, service)) = found else {
        let names: Vec<_> = schemas.iter().map(|schema| schema.name).collect();
        return Err(format!("there is no service `{name}` here; this server has: {}", names.join(", ")));
    };
    let by_name: HashMap<_, _> = schema.methods.iter().map(|method| (method.name, method)).collect();
    let mut table = Table::new();
    let mut ids = Vec::with_capacity(methods.len());
    for (method, oneway, hash, text) in methods {
        let Some(own) = by_name.get(method.as_str()) else {
            ids.push(ABSENT);
            continue;
        };
        if own.hash != hash || own.oneway != oneway {
            return Err(format!(
                "`{name}::{method}` differs: the client has `{text}`, this server `{}`; build both from the same trait",
                own.text
            ));
        }
        // So the table is never longer than the service, whatever the client asks.
        if table.iter().any(|(_, index)| *index == own.index) {
            return Err(format!("`{name}::{method}` is asked for twice"));
        }
        let id = u16::try_from(table.len()).ok().filter(|id| *id != ABSENT);
        ids.push(id.ok_or("too many methods")?);
        table.push((Arc::clone(service), own.index));
    }
    Ok((to_bytes(&ids), table))
}

fn to_bytes<T>(value: &T) -> Vec<u8>
where
    T: for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<AlignedVec, rkyv::ser::allocator::ArenaHandle<'a>, Refusal>,
        >,
{
    rkyv::to_bytes::<Refusal>(value).map(|bytes| bytes.to_vec()).unwrap_or_default()
}

fn from_bytes<T>(bytes: &[u8]) -> Result<T, String>
where
    T: rkyv::Archive,
    T::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, Refusal>>
        + rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<Refusal>>,
{
    let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    rkyv::from_bytes::<T, Refusal>(&aligned).map_err(|refusal| refusal.reason().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::{Answered, Request};
    use crate::schema::MethodSchema;

    struct Two;
    impl Service for Two {
        fn schema(&self) -> ServiceSchema {
            let methods =
                vec![MethodSchema::unary::<(u32,), u32>(0, "a"), MethodSchema::oneway::<(String,)>(3, "b")];
            ServiceSchema { name: "Two", methods }
        }
        fn dispatch(&self, _: u16, request: Request<'_>) -> Answered {
            request.unknown_method()
        }
    }

    fn services() -> Vec<Arc<dyn Service>> {
        vec![Arc::new(Two)]
    }

    #[test]
    fn a_table_is_agreed_on_by_name() {
        let asked = ServiceSchema {
            name: "Two",
            methods: vec![
                MethodSchema::oneway::<(String,)>(0, "b"),
                MethodSchema::unary::<(), ()>(2, "newer"),
                MethodSchema::unary::<(u32,), u32>(5, "a"),
            ],
        };
        let (answer, table) = answer(&services(), &question(&asked)).unwrap();
        assert_eq!(table.iter().map(|(_, index)| *index).collect::<Vec<_>>(), [3, 0]);
        let ids = read_answer(&asked, &answer).unwrap();
        assert_eq!(*ids, [Some(0), None, None, None, None, Some(1)]);
    }

    #[test]
    fn a_method_is_asked_for_once() {
        let asked = ServiceSchema {
            name: "Two",
            methods: vec![
                MethodSchema::unary::<(u32,), u32>(0, "a"),
                MethodSchema::unary::<(u32,), u32>(1, "a"),
            ],
        };
        let text = answer(&services(), &question(&asked)).err().unwrap();
        assert_eq!(text, "`Two::a` is asked for twice");
    }

    #[test]
    fn what_differs_is_named() {
        let other = |name, method| {
            let schema = ServiceSchema { name, methods: vec![method] };
            answer(&services(), &question(&schema)).err().unwrap()
        };
        let text = other("Three", MethodSchema::unary::<(), ()>(0, "a"));
        assert!(text.contains("`Three`") && text.contains("Two"), "{text}");
        let text = other("Two", MethodSchema::unary::<(u64,), u32>(0, "a"));
        assert!(text.contains("a(u64)->u32") && text.contains("a(u32)->u32"), "{text}");
        let text = answer(&services(), b"nonsense").err().unwrap();
        assert!(text.contains("0x..") && !text.contains("0x0"), "{text}");
    }
}
