//! From syntax to the model. What the model cannot say is refused here; what it can but must not, in
//! [`check`](crate::check).

mod params;
mod words;

use proc_macro2::TokenStream;
use syn::parse::{ParseStream, Parser};
use syn::{
    Attribute, Data, DeriveInput, FnArg, GenericParam, Generics, Item, ItemTrait, Lit, ReturnType, Safety,
    Signature, Token, TraitItem, TraitItemFn, Visibility, parse_quote,
};

use crate::args::Args;
use crate::errors::Errors;
use crate::model::{
    Message, Method, Param, ParamKind, Reply, Service, Shape, Variant, allowed, cfgs, repeated_of_message,
    repeated_of_service,
};
use crate::syntax::{head, hides, is_unit, last_segment, type_arguments};

use params::{blob, is_descriptor, param, refuse_receiver};

const NOT_YET: &str = "not in this version of shmrpc yet";
/// A request names its method by 16 bits.
const MOST_METHODS: usize = 1 << 16;

/// Reads the item under `#[shmrpc::service]`. `None` if it is no trait at all.
pub(crate) fn service(args: Args, item: TokenStream, errors: &Errors) -> Option<Service> {
    let mut item = match syn::parse2::<Item>(words::without_odd_words(item, errors)) {
        Ok(Item::Trait(item)) => item,
        Ok(other) => {
            errors.refuse(head(&other), "`#[shmrpc::service]` goes on a trait");
            return None;
        }
        Err(error) => {
            errors.push(error);
            return None;
        }
    };
    refuse_trait_parts(&item, errors);
    refuse_twice(&mut item.attrs, "service", errors);
    let (mut methods, mut seen) = (Vec::new(), 0);
    for part in &mut item.items {
        take_qualifiers(part, errors);
        match part {
            TraitItem::Fn(function) => {
                methods.extend(method(seen, function, errors));
                seen += 1;
            }
            TraitItem::Const(item) => {
                errors.refuse(&item.ident, "a service has methods only: move this constant out of the trait")
            }
            TraitItem::Type(item) => {
                errors.refuse(
                    &item.ident,
                    "a service has methods only: name the type in the methods instead of an associated type",
                );
            }
            TraitItem::Macro(item) => {
                errors.refuse(
                    &item.mac.path,
                    "a macro in a service cannot be seen through: write its methods out",
                );
            }
            other => errors.refuse(other, "a service has methods only"),
        }
    }
    Some(Service {
        krate: args.krate,
        repeated: repeated_of_service(&item),
        vis: item.vis.clone(),
        name: item.ident.clone(),
        methods,
        item,
    })
}

/// Takes a second one of our attributes off an item, which would repeat everything.
fn refuse_twice(attrs: &mut Vec<Attribute>, name: &str, errors: &Errors) {
    attrs.retain(|attr| {
        let segments: Vec<String> =
            attr.path().segments.iter().map(|segment| segment.ident.to_string()).collect();
        let again = segments == ["shmrpc", name];
        if again {
            errors.refuse(attr, format!("`#[shmrpc::{name}]` is given twice"));
        }
        !again
    });
}

/// Takes off a method what it cannot have in a trait, where syn does not see a method in it.
fn take_qualifiers(part: &mut TraitItem, errors: &Errors) {
    let TraitItem::Verbatim(tokens) = part else { return };
    let read = |input: ParseStream<'_>| {
        let attrs = input.call(Attribute::parse_outer)?;
        let (vis, default) = (input.parse::<Visibility>()?, input.parse::<Option<Token![default]>>()?);
        let mut function: TraitItemFn = input.parse()?;
        function.attrs.splice(0..0, attrs);
        Ok((vis, default, function))
    };
    let Ok((vis, default, function)) = read.parse2(tokens.clone()) else { return };
    if !matches!(vis, Visibility::Inherited) {
        errors.refuse(&vis, "a method of a service is as visible as its trait: write a plain `fn`");
    }
    if let Some(token) = default {
        errors.refuse(token, "a method of a service cannot be `default`: write a plain `fn`");
    }
    *part = TraitItem::Fn(function);
}

fn refuse_trait_parts(item: &ItemTrait, errors: &Errors) {
    if let Some(token) = &item.unsafety {
        errors.refuse(token, "a service cannot be an unsafe trait: its callers are other processes");
    }
    if let Some(token) = &item.modifiers.auto_token {
        errors.refuse(token, "a service cannot be an auto trait");
    }
    if !item.generics.params.is_empty() {
        errors.refuse(
            &item.generics,
            "a service cannot be generic: its callers are other processes, which need to know its types",
        );
    }
    if let Some(clause) = &item.generics.where_clause {
        errors.refuse(clause, "a service takes no where clause");
    }
}

fn method(index: usize, function: &mut TraitItemFn, errors: &Errors) -> Option<Method> {
    let before = errors.count();
    let oneway = take_markers(function, errors);
    refuse_signature_parts(&function.sig, errors);
    take_defaults(&mut function.sig.generics);
    let TraitItemFn { attrs, modifiers: _, sig, default: _, semi_token: _ } = &*function;
    let Ok(number) = u16::try_from(index) else {
        if index == MOST_METHODS {
            errors.refuse(&sig.ident, format!("a service has at most {MOST_METHODS} methods"));
        }
        return None;
    };
    let mut params: Vec<Param> = Vec::new();
    for input in sig.inputs.iter() {
        if let FnArg::Typed(typed) = input {
            params.extend(param(typed, errors));
        }
    }
    let reply = reply(&sig.output, oneway, errors);
    let descriptors = params.iter_mut().filter_map(|param| match &mut param.kind {
        ParamKind::Descriptor(place) => Some(place),
        _ => None,
    });
    (0..).zip(descriptors).for_each(|(number, place)| *place = number);
    Some(Method {
        index: number,
        name: sig.ident.clone(),
        cfgs: cfgs(attrs),
        attrs: attrs.iter().filter(|attr| is_repeated(attr)).cloned().chain(allowed(attrs)).collect(),
        deprecated: attrs.iter().any(|attr| attr.path().is_ident("deprecated")),
        refused: errors.count() > before,
        params,
        reply,
    })
}

/// Takes `#[oneway]` and `#[concurrent]` off the method: rustc does not know them.
fn take_markers(function: &mut TraitItemFn, errors: &Errors) -> bool {
    let mut oneway = false;
    function.attrs.retain(|attr| {
        if attr.path().is_ident("concurrent") {
            errors.refuse(
                attr,
                format!(
                    "`#[concurrent]` is {NOT_YET}: methods run one after the other on their caller's lane"
                ),
            );
            return false;
        }
        if hides(attr, "oneway") {
            let advice = "write this `#[oneway]` without `cfg_attr`, on a method that has a `#[cfg(..)]`";
            errors.refuse(attr, format!("{advice}: what `cfg_attr` makes of itself cannot be seen here"));
            return false;
        }
        if attr.path().segments.last().is_none_or(|last| last.ident != "oneway") {
            return true;
        }
        if !attr.path().is_ident("oneway") {
            errors.refuse(attr.path(), "a marker of `#[shmrpc::service]` has no path: write `#[oneway]`");
        }
        if let Err(error) = attr.meta.require_path_only() {
            errors.refuse(attr, format!("`#[oneway]` takes no arguments ({error})"));
        }
        if oneway {
            errors.refuse(attr, "`#[oneway]` is given twice");
        }
        oneway = true;
        false
    });
    oneway
}

/// Takes off what no parameter of a method can have, once they are refused altogether: rustc would say so again.
fn take_defaults(generics: &mut Generics) {
    for parameter in &mut generics.params {
        match parameter {
            GenericParam::Type(parameter) => parameter.default = None,
            GenericParam::Const(parameter) => parameter.default = None,
            GenericParam::Lifetime(_) => {}
        }
    }
}

fn is_repeated(attr: &Attribute) -> bool {
    ["doc", "deprecated", "must_use"].iter().any(|name| attr.path().is_ident(name))
}

fn refuse_signature_parts(sig: &Signature, errors: &Errors) {
    if let Some(token) = &sig.constness {
        errors.refuse(token, "a method of a service cannot be `const`: it runs in another process");
    }
    if let Some(token) = &sig.asyncness {
        errors.refuse(token, format!("`async fn` is {NOT_YET}: write a plain `fn`"));
    }
    if let Safety::Unsafe(token) = &sig.safety {
        errors.refuse(
            token,
            "a method of a service cannot be `unsafe`: its callers are \
        other processes, which promise nothing",
        );
    }
    if let Safety::Safe(token) = &sig.safety {
        errors.refuse(token, "write a plain `fn`");
    }
    if let Some(abi) = &sig.abi {
        errors.refuse(abi, "a method of a service cannot be `extern`: write a plain `fn`");
    }
    if let Some(dots) = &sig.variadic {
        errors.refuse(dots, "a method of a service has a fixed list of parameters");
    }
    for parameter in &sig.generics.params {
        match parameter {
            GenericParam::Lifetime(lifetime) => {
                errors.refuse(
                    lifetime,
                    "a method of a service names no lifetimes: its borrowed \
        parameters live until it returns",
                );
            }
            other => errors.refuse(
                other,
                "a method of a service cannot be generic: its callers are other \
        processes, which need to know its types",
            ),
        }
    }
    if let Some(clause) = &sig.generics.where_clause {
        errors.refuse(clause, "a method of a service takes no where clause");
    }
    match sig.inputs.first() {
        Some(FnArg::Receiver(receiver)) => refuse_receiver(receiver, errors),
        Some(FnArg::Typed(_)) | None => {
            errors.refuse(&sig.ident, "a method of a service takes `&self` first")
        }
    }
}

fn reply(output: &ReturnType, oneway: bool, errors: &Errors) -> Reply {
    let written = match output {
        ReturnType::Default => parse_quote!(()),
        ReturnType::Type(_, written) => (**written).clone(),
    };
    if oneway {
        if let ReturnType::Type(..) = output
            && !is_unit(&written)
        {
            errors.refuse(&written, "a `#[oneway]` method answers nothing: remove the result, or the marker");
        }
        return Reply::OneWay;
    }
    let plain = || Reply::Plain(parse_quote!(()));
    if let Some(number) = blob(&written, errors) {
        return number.map_or_else(plain, |number| Reply::Blob { number, err: None });
    }
    if is_descriptor(&written) {
        return Reply::Descriptor { err: None };
    }
    let Some(result) = last_segment(&written).filter(|segment| segment.ident == "Result") else {
        return Reply::Plain(written);
    };
    match type_arguments(result)[..] {
        [ok, err] if is_descriptor(ok) => Reply::Descriptor { err: Some(Box::new(err.clone())) },
        [ok, err] => match blob(ok, errors) {
            None => Reply::Fallible { ok: ok.clone(), err: Box::new(err.clone()) },
            Some(number) => {
                let err = Box::new(err.clone());
                match number {
                    Some(number) => Reply::Blob { number, err: Some(err) },
                    // The error is looked at all the same.
                    None => Reply::Fallible { ok: parse_quote!(()), err },
                }
            }
        },
        ref other => {
            errors.refuse(
                &written,
                "name both types, `Result<T, E>`: the macro cannot see through an alias of `Result`",
            );
            // What it names is looked at all the same.
            match other {
                [ok] => Reply::Plain((*ok).clone()),
                _ => plain(),
            }
        }
    }
}

/// Reads the item under `#[shmrpc::message]`. `None` if it is neither struct nor enum.
pub(crate) fn message(args: Args, item: TokenStream, errors: &Errors) -> Option<Message> {
    let whole = match syn::parse2::<Item>(item.clone()) {
        Ok(whole) => whole,
        Err(error) => {
            errors.push(error);
            return None;
        }
    };
    let Ok(mut item) = syn::parse2::<DeriveInput>(item) else {
        errors.refuse(head(&whole), "`#[shmrpc::message]` goes on a struct or an enum");
        return None;
    };
    refuse_twice(&mut item.attrs, "message", errors);
    let shape = match &item.data {
        Data::Struct(data) => Shape::Struct(data.fields.clone()),
        Data::Enum(data) => {
            Shape::Enum(data.variants.iter().map(|written| variant(written, errors)).collect())
        }
        Data::Union(data) => {
            errors.refuse(
                data.union_token,
                "a union cannot be a message: use an enum, which says which of its variants it holds",
            );
            return None;
        }
    };
    Some(Message {
        krate: args.krate,
        repeated: repeated_of_message(&item),
        name: item.ident.clone(),
        generics: item.generics.clone(),
        recursive: args.recursive,
        shape,
        item,
    })
}

fn variant(written: &syn::Variant, errors: &Errors) -> Variant {
    let syn::Variant { attrs, ident, fields, discriminant } = written;
    let discriminant = discriminant.as_ref().and_then(|(_, value)| {
        let literal = match value {
            syn::Expr::Lit(syn::ExprLit { lit: Lit::Int(literal), .. }) => literal.base10_parse().ok(),
            _ => None,
        };
        if literal.is_none() {
            errors.refuse(
                value,
                "a discriminant of a message is a literal from 0 to 255: it is sent as one byte",
            );
        }
        literal
    });
    Variant { name: ident.clone(), attrs: attrs.clone(), fields: fields.clone(), discriminant }
}

#[cfg(test)]
mod tests {
    use quote::{format_ident, quote};

    use super::*;
    use crate::args;

    /// Too many to write them out for the compiler.
    #[test]
    fn methods_beyond_the_last_number_are_refused_once() {
        let many = |count: usize| {
            let names = (0..count).map(|index| format_ident!("method_{index}"));
            let errors = Errors::new();
            let args = args::service(TokenStream::new(), &errors);
            let service = service(args, quote!(trait Many { #(fn #names(&self);)* }), &errors).unwrap();
            let refused = errors.finish().err();
            (service.methods.len(), refused.into_iter().flatten().map(|error| error.to_string()).collect())
        };
        assert_eq!(many(65_536), (65_536, Vec::<String>::new()));
        assert_eq!(many(65_538), (65_536, vec!["a service has at most 65536 methods".to_owned()]));
    }
}
