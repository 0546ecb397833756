//! From syntax to the model. What the model cannot say is refused here; what it can but must not, in
//! [`check`](crate::check).

use proc_macro2::TokenStream;
use syn::{
    Attribute, Data, DeriveInput, FnArg, GenericParam, Item, ItemTrait, Lit, Pat, PatType, Path, Receiver,
    ReceiverKind, ReturnType, Safety, Signature, TraitItem, TraitItemFn, Type, parse_quote,
};

use crate::args::Args;
use crate::errors::Errors;
use crate::model::{Message, Method, Param, ParamKind, Reply, Service, Shape, Variant, cfgs};
use crate::syntax::{cut_off, fixed_width, head, is_unit, last_segment, owned, peel, text, type_arguments};

const NOT_YET: &str = "not in this version of shmrpc yet";

/// Reads the item under `#[shmrpc::service]`. `None` if it is no trait at all.
pub(crate) fn service(args: Args, item: TokenStream, errors: &Errors) -> Option<Service> {
    let mut item = match syn::parse2::<Item>(item) {
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
    let mut methods = Vec::new();
    for part in &mut item.items {
        match part {
            TraitItem::Fn(function) => methods.extend(method(methods.len(), function, errors)),
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
        cfgs: cfgs(&item.attrs),
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
    let TraitItemFn { attrs, modifiers: _, sig, default: _, semi_token: _ } = &*function;
    refuse_signature_parts(sig, errors);
    let Ok(index) = u16::try_from(index) else {
        errors.refuse(&sig.ident, "a service has at most 65536 methods");
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
        index,
        name: sig.ident.clone(),
        cfgs: cfgs(attrs),
        attrs: attrs.iter().filter(|attr| is_repeated(attr)).cloned().collect(),
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
        if !attr.path().is_ident("oneway") {
            return true;
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

fn is_repeated(attr: &Attribute) -> bool {
    ["doc", "deprecated", "must_use", "allow"].iter().any(|name| attr.path().is_ident(name))
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

fn refuse_receiver(receiver: &Receiver, errors: &Errors) {
    if let Some(attr) = receiver.attrs.first() {
        errors.refuse(attr, "attributes on parameters are not supported in a service");
    }
    match &receiver.kind {
        ReceiverKind::Reference(_, None, None) => {}
        ReceiverKind::Reference(_, _, Some(_)) => {
            errors.refuse(
                receiver,
                "a service is shared by all its callers: take `&self`, and keep \
        what changes in a Mutex or in atomics",
            );
        }
        ReceiverKind::Reference(_, Some(lifetime), None) => {
            errors.refuse(lifetime, "a method of a service names no lifetimes: write `&self`");
        }
        _ => {
            errors.refuse(receiver, "a service outlives its calls: take `&self`");
        }
    }
}

fn param(typed: &PatType, errors: &Errors) -> Option<Param> {
    let PatType { attrs, pat, colon_token: _, ty } = typed;
    if let Some(attr) = attrs.first() {
        errors.refuse(attr, "attributes on parameters are not supported in a service");
    }
    let name = match &**pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => Some(pat.ident.clone()),
        Pat::Wild(wild) => {
            errors.refuse(wild, "give this parameter a name: the client's method shows it");
            None
        }
        other => {
            errors.refuse(
                other,
                "a parameter of a service is a plain name: take it apart in the method's body",
            );
            None
        }
    };
    let kind = param_kind(ty, errors);
    Some(Param { name: name?, kind: kind?, written: (**ty).clone() })
}

fn param_kind(ty: &Type, errors: &Errors) -> Option<ParamKind> {
    let Type::Reference(reference) = peel(ty) else {
        if is_descriptor(ty) {
            return Some(ParamKind::Descriptor(0));
        }
        return match blob(ty, errors) {
            None => Some(ParamKind::Owned),
            Some(number) => number.map(ParamKind::Blob),
        };
    };
    if let Some(token) = &reference.mutability {
        errors.refuse(
            token,
            "a parameter of a service cannot be written through: the caller is \
        another process; return the new value instead",
        );
        return None;
    }
    if let Some(lifetime) = &reference.lifetime {
        errors.refuse(
            lifetime,
            "a method of a service names no lifetimes: its borrowed parameters live until it returns",
        );
        return None;
    }
    match peel(&reference.elem) {
        Type::Slice(slice) if is_number(&slice.elem) => Some(ParamKind::Numbers((*slice.elem).clone())),
        Type::Slice(slice) => {
            if let Type::Reference(inner) = peel(&slice.elem) {
                errors.refuse(
                    ty,
                    format!("no references inside a parameter: use `Vec<{}>`", owned(&inner.elem)),
                );
                return None;
            }
            // `&[usize]` is refused for its numbers, as everywhere.
            if let Some(instead) = last_segment(&slice.elem).and_then(|last| fixed_width(&last.ident)) {
                errors.refuse(&slice.elem, cut_off(text(&slice.elem), instead));
                return None;
            }
            errors.refuse(
                ty,
                format!(
                    "only slices of plain numbers (u8 to u64, i8 to i64, f32, f64) are read where they arrived: \
                     take `Vec<{0}>`, or `&Archived<Vec<{0}>>`",
                    text(&slice.elem)
                ),
            );
            None
        }
        Type::Path(path) if path.qself.is_none() => reference_to(ty, &path.path, errors),
        Type::Reference(_) => {
            errors.refuse(ty, "one reference is enough: `&str`, `&[u8]`, `&Archived<T>` or `&Context`");
            None
        }
        Type::TraitObject(_) => {
            errors.refuse(ty, "a trait object cannot be sent to another process: name a message");
            None
        }
        Type::ImplTrait(_) => {
            errors.refuse(ty, "`impl Trait` does not say what is sent: name a message");
            None
        }
        other => {
            let other = text(other);
            errors.refuse(ty, format!("take `{other}`, or `&Archived<{other}>` to read it where it arrived"));
            None
        }
    }
}

/// `&Path`: one of the references that a service may take.
fn reference_to(ty: &Type, path: &Path, errors: &Errors) -> Option<ParamKind> {
    let last = path.segments.last()?;
    if path.is_ident("str") {
        return Some(ParamKind::Text);
    }
    if last.ident == "Context" && last.arguments.is_empty() {
        return Some(ParamKind::Context);
    }
    if last.ident == "Archived" {
        let [inner] = type_arguments(last)[..] else {
            errors.refuse(ty, "`Archived` takes the message's type: `&Archived<T>`");
            return None;
        };
        return Some(ParamKind::Archived(inner.clone()));
    }
    let hint = match (&last.ident, &type_arguments(last)[..]) {
        (ident, _) if ident == "Blob" => {
            format!("take `{}`: it is lent, and read where it arrived", text(path))
        }
        (ident, _) if ident == "OwnedFd" => {
            format!("take `{}`: it is moved to the other process, and closed here", text(path))
        }
        (ident, []) if ident == "String" => "take `&str`: it is read where it arrived".to_owned(),
        (ident, []) if ident == "Path" || ident == "OsStr" => {
            "a path is sent as text: take `&str`, or `&[u8]` if it may not be UTF-8".to_owned()
        }
        (ident, [elem]) if ident == "Vec" && is_number(elem) => {
            format!("take `&[{}]`: it is read where it arrived", text(elem))
        }
        _ => {
            let path = text(path);
            format!("take `{path}`, or `&Archived<{path}>` to read it where it arrived")
        }
    };
    errors.refuse(ty, hint);
    None
}

/// The numbers of a `Blob`, if it is one; `None` inside if they are none.
fn blob(ty: &Type, errors: &Errors) -> Option<Option<Type>> {
    let last = last_segment(ty).filter(|last| last.ident == "Blob")?;
    match type_arguments(last)[..] {
        [] if last.arguments.is_empty() => Some(Some(parse_quote!(u8))),
        [number] if is_number(number) => Some(Some(number.clone())),
        _ => {
            errors.refuse(ty, "a blob holds plain numbers (u8 to u64, i8 to i64, f32, f64): `Blob<f32>`; `Blob` is one of bytes");
            Some(None)
        }
    }
}

/// `OwnedFd`, by whatever path.
fn is_descriptor(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|last| last.ident == "OwnedFd" && last.arguments.is_empty())
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
            Some(number) => number.map_or_else(plain, |number| {
                let err = Some(Box::new(err.clone()));
                Reply::Blob { number, err }
            }),
        },
        _ => {
            errors.refuse(
                &written,
                "name both types, `Result<T, E>`: the macro cannot see through an alias of `Result`",
            );
            Reply::Plain(parse_quote!(()))
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
        cfgs: cfgs(&item.attrs),
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

/// A plain number: a slice of it is read where it arrived.
fn is_number(ty: &Type) -> bool {
    const NUMBERS: [&str; 10] = ["u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64"];
    matches!(peel(ty), Type::Path(path) if path.qself.is_none() && NUMBERS.iter().any(|name| path.path.is_ident(name)))
}
