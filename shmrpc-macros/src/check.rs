//! The rules that a well-formed service or message can still break.

mod references;
mod types;

use syn::meta::ParseNestedMeta;
use syn::{Attribute, Fields, Ident, Token, TraitItem, Type, parse_quote};

use crate::errors::Errors;
use crate::model::{Message, Method, ParamKind, Reply, Service, Shape, Variant, cfgs};
use crate::syntax::{
    Part, Role, each_argument, each_endless, hides, in_full, in_place_of, instead, rkyv_derive, text,
    wire_name,
};

use types::{Place, Types, is_fine_in};

/// Said of an enum.
pub(crate) const WITHOUT_VARIANTS: &str = "an enum without variants has no values to send";
/// Inherent names of every client.
const RESERVED: [&str; 2] = ["connect", "builder"];
/// The longest tuple that is a message.
const MOST_PARAMETERS: usize = 12;
/// rkyv numbers variants in one byte.
pub(crate) const MOST_VARIANTS: usize = 256;

/// Checks a service.
pub(crate) fn service(service: &Service, errors: &Errors) {
    for (position, method) in service.methods.iter().enumerate() {
        let name = wire_name(&method.name);
        if is_reserved(&name) {
            errors
                .refuse(&method.name, format!("`{name}` is the client's own: give this method another name"));
        }
        let mut before = service.methods.iter().take(position);
        // Of two methods that are both under `#[cfg]`, one may be absent; if not, rustc says so.
        if before
            .any(|other| wire_name(&other.name) == name && (other.cfgs.is_empty() || method.cfgs.is_empty()))
        {
            errors.refuse(
                &method.name,
                format!(
                    "there is another method `{name}`: clients in other processes know a method by its name"
                ),
            );
        }
        parameters(method, errors);
        reply(&method.reply, errors);
    }
    refuse_hidden_cfgs(&service.item.attrs, errors);
    for item in &service.item.items {
        if let TraitItem::Fn(function) = item {
            refuse_hidden_cfgs(&function.attrs, errors);
        }
    }
}

/// Whether it is a name of every client.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// Whether the rules have nothing to say against what a method sends.
pub(crate) fn is_fine_method(method: &Method) -> bool {
    let errors = Errors::new();
    parameters(method, &errors);
    reply(&method.reply, &errors);
    errors.finish().is_ok()
}

/// A `#[cfg]` has to be repeated where the thing is used.
fn refuse_hidden_cfgs(attrs: &[Attribute], errors: &Errors) {
    for attr in attrs.iter().filter(|attr| hides(attr, "cfg")) {
        errors.refuse(
            attr,
            "write this `#[cfg(..)]` without `cfg_attr`: what that makes of itself cannot be seen here",
        );
    }
}

fn parameters(method: &Method, errors: &Errors) {
    let check = |ty| Types::new(Place::Parameter(ty), errors).check(ty);
    let (mut contexts, mut sent) = (0, 0);
    for (position, param) in method.params.iter().enumerate() {
        let name = param.name.as_ref().map(wire_name);
        let mut before = method.params.iter().take(position);
        if let Some(name) = name
            && before.any(|other| other.name.as_ref().is_some_and(|other| wire_name(other) == name))
        {
            errors.refuse(
                &param.name,
                format!("there is another parameter `{name}`: give this one a name of its own"),
            );
        }
        match &param.kind {
            ParamKind::Context => {
                contexts += 1;
                if contexts == 2 {
                    errors.refuse(&param.written, "one `&Context` is enough: there is one per call");
                }
                continue;
            }
            ParamKind::Owned => check(&param.written),
            ParamKind::Archived(inner) => check(inner),
            ParamKind::Borrowed(ty) => references::refuse(&param.written, ty, errors),
            ParamKind::Text | ParamKind::Numbers(_) | ParamKind::Blob(_) | ParamKind::Descriptor(_) => {}
        }
        sent += 1;
        if sent == MOST_PARAMETERS + 1 {
            errors.refuse(
                &param.written,
                format!("a method sends at most {MOST_PARAMETERS} parameters: put them into a message"),
            );
        }
    }
}

/// Whether the rules have nothing to say against a type of a service; rustc may have.
pub(crate) fn is_fine(ty: &Type) -> bool {
    is_fine_in(Place::Parameter(ty), ty)
}

/// Whether the rules have nothing to say against a type of a field; rustc may have.
pub(crate) fn is_fine_field(message: &Message, ty: &Type) -> bool {
    is_fine_in(Place::Field(&message.name), ty)
}

/// What a refused service still asks of a part of what it sends.
pub(crate) fn asked(part: Part) -> Option<Part> {
    around_what_is_refused(part, is_fine)
}

/// What a refused message still asks of a part of a field.
pub(crate) fn asked_of_field(message: &Message, part: Part) -> Option<Part> {
    around_what_is_refused(part, |ty| is_fine_field(message, ty))
}

/// A part that is fine, or else the same with what may be sent in place of what is refused in it: so rustc can tell in the
/// same round that `Wrapping` is no message, if it is for its `usize` that `Wrapping<usize>` was refused.
fn around_what_is_refused(mut part: Part, is_fine: impl Fn(&Type) -> bool) -> Option<Part> {
    if is_fine(&part.ty) {
        return Some(part);
    }
    if part.role == Role::Message {
        each_argument(&mut part.ty, |ty| {
            let instead = in_full(&instead(ty), ty);
            match (is_fine(ty), is_fine(&instead)) {
                (true, _) => {}
                (false, true) => *ty = instead,
                (false, false) => *ty = parse_quote!(u8),
            }
        });
    } else {
        part.ty = in_place_of(&part.ty, &in_full(&instead(&part.ty), &part.ty));
    }
    is_fine(&part.ty).then_some(part)
}

fn reply(reply: &Reply, errors: &Errors) {
    let types = Types::new(Place::Result, errors);
    let result = |ty| {
        if !references::refuse_result(ty, errors) {
            types.check(ty);
        }
    };
    match reply {
        Reply::OneWay => {}
        Reply::Plain(ok) => result(ok),
        Reply::Blob { number: _, err } | Reply::Descriptor { err } => {
            err.iter().for_each(|err| types.check(err))
        }
        Reply::Fallible { ok, err } => {
            result(ok);
            types.check(err);
        }
    }
}

/// Checks a message.
pub(crate) fn message(message: &Message, errors: &Errors) {
    for lifetime in message.generics.lifetimes() {
        errors.refuse(
            lifetime,
            "a message owns its data, so it has no lifetimes: hold a \
        `String` or a `Vec` instead of a reference",
        );
    }
    for attr in &message.item.attrs {
        item_attribute(attr, errors);
    }
    refuse_hidden_cfgs(&message.item.attrs, errors);
    for (_, field) in message.fields() {
        refuse_hidden_cfgs(&field.attrs, errors);
    }
    if let Shape::Enum(variants) = &message.shape {
        if variants.is_empty() {
            errors.refuse(&message.name, WITHOUT_VARIANTS);
        }
        if let Some(Variant { name, .. }) = variants.get(MOST_VARIANTS) {
            errors.refuse(
                name,
                format!("a message has at most {MOST_VARIANTS} variants: the variant is sent as one byte"),
            );
        }
        let mut named = variants.iter().zip(numbers(variants));
        if let Some((Variant { name, .. }, _)) = named.find(|(_, number)| *number == 256)
            && variants.iter().any(|variant| variant.discriminant.is_some())
        {
            errors.refuse(
                name,
                "its discriminant would be 256: it is sent as one byte, so 255 is the last one",
            );
        }
        for variant in variants {
            refuse_hidden_cfgs(&variant.attrs, errors);
            for attr in variant.attrs.iter().filter(is_of_rkyv) {
                errors.refuse(attr, "`#[rkyv(..)]` goes on the whole message here");
            }
        }
    }
    let types = Types::new(Place::Field(&message.name), errors);
    for (_, field) in message.fields() {
        for attr in field.attrs.iter().filter(is_of_rkyv) {
            errors.refuse(
                attr,
                "a field travels as its type says: `#[rkyv(..)]` goes on the whole message only",
            );
        }
        types.check(&field.ty);
        if !endless(message, &field.ty, errors)
            && !message.recursive
            && let Some(mention) = types::mention(&field.ty, &message.name)
        {
            errors.refuse(
                mention,
                format!("`{}` contains itself: write `#[shmrpc::message(recursive)]`", message.name),
            );
        }
    }
}

fn is_of_rkyv(attr: &&Attribute) -> bool {
    attr.path().is_ident("rkyv") || hides(attr, "rkyv")
}

/// Refuses a message that holds itself as a part, and says whether it does.
fn endless(message: &Message, ty: &Type, errors: &Errors) -> bool {
    let before = errors.count();
    let also = if message.recursive { "" } else { ", and `#[shmrpc::message(recursive)]`" };
    each_endless(&mut ty.clone(), &message.name, &mut |own| {
        errors.refuse(
            &*own,
            format!(
                "`{}` would contain itself without end: write `Box<{1}>` or `Vec<{1}>`{also}",
                message.name,
                text(&*own)
            ),
        );
    });
    errors.count() > before
}

/// Whether a number or a name is there twice, of which rustc tells.
pub(crate) fn repeats_itself(message: &Message) -> bool {
    repeats_a_number(message) || repeats_a_name(message)
}

/// Whether two variants have one name, or two fields that stand side by side. Of two that have a `#[cfg]`, one may go.
pub(crate) fn repeats_a_name(message: &Message) -> bool {
    let repeats = |fields: &Fields| {
        repeat(fields.iter().filter_map(|field| Some((field.ident.as_ref()?, &field.attrs[..]))))
    };
    match &message.shape {
        Shape::Struct(fields) => repeats(fields),
        Shape::Enum(variants) => {
            repeat(variants.iter().map(|variant| (&variant.name, &variant.attrs[..])))
                || variants.iter().any(|variant| repeats(&variant.fields))
        }
    }
}

fn repeat<'a>(parts: impl Iterator<Item = (&'a Ident, &'a [Attribute])>) -> bool {
    let always = parts.filter(|(_, attrs)| cfgs(attrs).is_empty());
    has_twins(always.map(|(name, _)| wire_name(name)).collect())
}

fn has_twins<T: Ord>(mut all: Vec<T>) -> bool {
    all.sort_unstable();
    all.windows(2).any(|pair| matches!(pair, [one, other] if one == other))
}

/// Whether two variants have the same number.
fn repeats_a_number(message: &Message) -> bool {
    let Shape::Enum(variants) = &message.shape else { return false };
    has_twins(numbers(variants))
}

/// The number of each variant: its own, or the next one. None if `#[cfg]` decides which there are.
fn numbers(variants: &[Variant]) -> Vec<u16> {
    if variants.iter().any(|variant| !cfgs(&variant.attrs).is_empty()) {
        return Vec::new();
    }
    let number = |next: &mut u16, variant: &Variant| {
        let number = variant.discriminant.map_or(*next, u16::from);
        *next = number.saturating_add(1);
        Some(number)
    };
    variants.iter().scan(0, number).collect()
}

/// Whether the rules have nothing to say against an attribute of a message.
pub(crate) fn is_fine_attribute(attr: &Attribute) -> bool {
    let errors = Errors::new();
    item_attribute(attr, &errors);
    errors.finish().is_ok()
}

fn item_attribute(attr: &Attribute, errors: &Errors) {
    let checked = match attr.path() {
        path if path.is_ident("rkyv") => attr.parse_nested_meta(|meta| rkyv_argument(&meta)),
        path if path.is_ident("repr") => attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("packed") {
                return Err(meta.error(
                    "a packed type cannot be a message: its fields cannot be borrowed to encode them",
                ));
            }
            skip_arguments(&meta)
        }),
        path if path.is_ident("derive") => match rkyv_derive(attr) {
            Some(derive) => Err(syn::Error::new_spanned(
                derive,
                "`#[shmrpc::message]` derives rkyv's traits itself: remove this",
            )),
            None => Ok(()),
        },
        _ => Ok(()),
    };
    if let Err(error) = checked {
        errors.push(error);
    }
}

fn rkyv_argument(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if !["derive", "compare", "attr"].iter().any(|name| meta.path.is_ident(name)) {
        return Err(meta.error(
            "only `derive(..)`, `compare(..)` and `attr(..)` are the user's: \
        shmrpc decides the rest of the archive",
        ));
    }
    skip_arguments(meta)
}

fn skip_arguments(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    while !meta.input.is_empty() && !meta.input.peek(Token![,]) {
        meta.input.parse::<proc_macro2::TokenTree>()?;
    }
    Ok(())
}
