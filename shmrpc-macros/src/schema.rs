//! The parts of an expansion that describe types: `Schema` impls of messages, and the list of a service's methods.

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Fields, GenericParam, Generics, Ident, Path, Type, WherePredicate, parse_quote};

use crate::model::{Message, Method, Param, ParamKind, Reply, Service, Shape, Variant, cfgs};
use crate::syntax::{
    self, Part, Role, elements, end, fresh, is_float, is_known, last_segment, mentions, parts, wire_name,
};

/// The value of `Client::schema`.
pub(crate) fn service(service: &Service) -> TokenStream {
    let Service { krate, item: _, repeated: _, vis: _, name, methods } = service;
    let name = wire_name(name);
    let methods = methods.iter().map(|method| method_schema(service, method));
    quote! {
        #krate::private::ServiceSchema {
            name: #name,
            methods: ::std::vec::Vec::from([#(#methods),*]),
        }
    }
}

/// A signature is said in aliases: rustc tells what is wrong with a type there as it does in the trait, and so once only. In the
/// arguments of a call it would say so in other words.
fn method_schema(service: &Service, method: &Method) -> TokenStream {
    let krate = &service.krate;
    let Method { index, name, cfgs, attrs: _, deprecated: _, refused: _, params: _, reply } = method;
    let name = wire_name(name);
    let sent = arguments(krate, method);
    let (wire, answer) = (alias("Arguments", service, method), fresh("Answer", &service.item));
    let or = |ok, err: &Type| quote!(::core::result::Result<#ok, #err>);
    let returned = match reply {
        Reply::OneWay => None,
        Reply::Plain(ok) => Some(ok.to_token_stream()),
        Reply::Fallible { ok, err } => Some(or(ok.to_token_stream(), err)),
        Reply::Blob { number, err } => {
            let blob = quote!(#krate::private::BlobWire<#number>);
            Some(err.as_ref().map_or(blob.clone(), |err| or(blob, err)))
        }
        Reply::Descriptor { err } => {
            let descriptor = quote!(#krate::private::DescriptorWire);
            Some(err.as_ref().map_or(descriptor.clone(), |err| or(descriptor, err)))
        }
    };
    let method = match returned {
        None => quote!(#krate::private::MethodSchema::oneway::<#wire>(#index, #name)),
        Some(returned) => quote! {
            type #answer = #returned;
            #krate::private::MethodSchema::unary::<#wire, #answer>(#index, #name)
        },
    };
    quote! {
        #(#cfgs)*
        {
            type #wire = #sent;
            #method
        }
    }
}

/// A name for what a method sends, where rustc reports that something in it is no message.
pub(crate) fn alias(name: &str, service: &Service, method: &Method) -> Ident {
    let mut name = fresh(name, &service.item);
    name.set_span(name.span().located_at(arguments_span(method)));
    name
}

/// The tuple of types that a method's request carries.
pub(crate) fn arguments(krate: &Path, method: &Method) -> TokenStream {
    let types = method.sent().map(|Param { name: _, kind, written }| match kind {
        ParamKind::Archived(inner) => quote!(#inner),
        ParamKind::Text => quote!(::std::string::String),
        ParamKind::Numbers(number) => quote!(::std::vec::Vec<#number>),
        ParamKind::Blob(number) => quote!(#krate::private::BlobWire<#number>),
        ParamKind::Descriptor(_) => quote!(#krate::private::DescriptorWire),
        ParamKind::Owned | ParamKind::Borrowed(_) | ParamKind::Context => quote!(#written),
    });
    let span = arguments_span(method);
    quote_spanned!(span=> (#(#types,)*))
}

/// Where rustc reports a parameter that is no message: on its type, if it is the only one, else on the method's name.
pub(crate) fn arguments_span(method: &Method) -> Span {
    match method.sent().map(|param| param.written.span()).collect::<Vec<_>>()[..] {
        [one] => one,
        _ => method.name.span(),
    }
}

/// The same tokens, reported at `span`.
pub(crate) fn on(span: Span, tokens: TokenStream) -> TokenStream {
    let tokens = tokens.into_iter().map(|mut token| {
        token.set_span(span);
        token
    });
    tokens.collect()
}

/// `impl Schema` of a message.
pub(crate) fn message(message: &Message) -> TokenStream {
    let Message { krate, item: _, repeated, name, generics, recursive: _, shape } = message;
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#krate::Message));
    }
    let asked = parts_in_bounds(message);
    generics.make_where_clause().predicates.extend(asked.iter().map(|part| is_asked(krate, part)));
    let is_message = impl_message(message);
    let checks = (!may_be_copied(message)).then(|| check_parts(message, Some));
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let recursive = recursive(message);
    let empty_elements = empty_elements(message);
    let wire = wire_name(name);
    let describe = match shape {
        Shape::Struct(body) => {
            let body = fields(message, body);
            quote!(to.structure::<Self>(#wire, |to| { #body });)
        }
        Shape::Enum(variants) => {
            let variants = variants.iter().map(|written| variant(message, written));
            quote!(to.enumeration::<Self>(#wire, |to| { #(#variants)* });)
        }
    };
    quote! {
        #(#repeated)*
        #[automatically_derived]
        impl #impl_generics #krate::Schema for #name #type_generics #where_clause {
            const RECURSIVE: bool = #recursive;
            #empty_elements

            fn describe(to: &mut #krate::Describe) {
                #describe
            }
        }

        #is_message

        #checks
    }
}

/// `impl Message` of a message. Whether a generic one can travel, rkyv decides for each of its arguments.
fn impl_message(message: &Message) -> TokenStream {
    let Message { krate, item: _, repeated, name, generics, recursive: _, shape: _ } = message;
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#krate::Message));
    }
    let predicates = &mut generics.make_where_clause().predicates;
    predicates.extend(parts_in_bounds(message).iter().map(|part| is_asked(krate, part)));
    if !message.generics.params.is_empty() {
        predicates.push(parse_quote!(Self: #krate::private::Wire));
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let declared = declared(message);
    quote! {
        #(#repeated)*
        #[automatically_derived]
        impl #impl_generics #krate::Message for #name #type_generics #where_clause {}

        #declared
    }
}

/// `impl Declared` of a message.
fn declared(message: &Message) -> TokenStream {
    let Message { krate, item: _, repeated, name, generics, recursive: _, shape: _ } = message;
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#krate::private::Declared));
    }
    // Others have to see it if what stands in the bounds is no message; with `for`, rustc does not say so here.
    let asked = parts_in_bounds(message);
    let types = asked.iter().map(|part| &part.ty);
    generics.make_where_clause().predicates.extend::<Vec<WherePredicate>>(
        types.map(|ty| parse_quote!(for<'__a> #ty: #krate::private::Declared)).collect(),
    );
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    quote! {
        #(#repeated)*
        #[automatically_derived]
        impl #impl_generics #krate::private::Declared for #name #type_generics #where_clause {}
    }
}

/// That a part is what it has to be, reported on it as the user wrote it.
pub(crate) fn is_asked(krate: &Path, part: &Part) -> WherePredicate {
    bound(
        &part.ty,
        match part.role {
            Role::Message => quote!(#krate::Message),
            Role::HashedKey => quote!(#krate::private::IsHashedKey),
            Role::OrderedKey => quote!(#krate::private::IsOrderedKey),
            Role::Hasher => quote!(#krate::private::IsHasher),
        },
    )
}

/// `T: Bound`, reported on the type as the user wrote it: from its first token to its last, which the bound is put on.
pub(crate) fn bound(ty: &Type, bound: TokenStream) -> WherePredicate {
    let bound = on(end(ty), quote!(: #bound));
    parse_quote!(#ty #bound)
}

/// `where T: Message` for each type that a service sends, and for those that types of the standard library are made of
/// in place of these. rustc says once for each place what does not hold, and assumes it from then on: so it names a type
/// that is no message, and not every use of it. A predicate cannot have a `#[cfg]`, so methods that have one are left out.
/// Of each part, what is `asked` about it is asked.
pub(crate) fn messages(
    service: &Service,
    asked: impl Fn(&Method, Part) -> Option<Part>,
) -> Option<TokenStream> {
    let krate = &service.krate;
    let always = service.methods.iter().filter(|method| method.cfgs.is_empty());
    let parts = always.flat_map(|method| method.messages().flat_map(parts).map(move |part| (method, part)));
    let parts = once_each(parts.filter_map(|(method, part)| asked(method, part)));
    let predicates = parts.iter().map(|part| is_asked(krate, part)).chain(assumed(krate, &parts));
    let predicates = quote!(#(#predicates),*);
    (!predicates.is_empty()).then_some(predicates)
}

/// What is asked of a key or a hasher in one piece stands for more, which rustc has to be told. With `for`, it does not
/// say what of it does not hold.
fn assumed(krate: &Path, parts: &[Part]) -> Vec<WherePredicate> {
    let assumed = parts.iter().filter_map(|Part { ty, role }| match role {
        Role::Message => None,
        Role::HashedKey => Some(parse_quote!(for<'__a> #ty: #krate::private::HashedKey)),
        Role::OrderedKey => Some(parse_quote!(for<'__a> #ty: #krate::private::OrderedKey)),
        Role::Hasher => {
            Some(parse_quote!(for<'__a> #ty: ::core::hash::BuildHasher + ::core::default::Default))
        }
    });
    assumed.collect()
}

/// What the fields are made of, once each, if it stands in the bounds of all that is derived for the message, and not in
/// [`check_parts`]: then rustc can tell everybody who uses the message what is wrong with it. So it is for those that rkyv may
/// write many of in one piece, which it does not if anything is said of a field.
pub(crate) fn parts_in_bounds(message: &Message) -> Vec<Part> {
    if !may_be_copied(message) {
        return Vec::new();
    }
    once_each(message.fields().iter().flat_map(|(_, field)| asked_parts(&message.generics, &field.ty)))
}

/// Asks once, beside the message, for everything that its fields are made of: of each part, what is `asked` about it.
pub(crate) fn check_parts(message: &Message, asked: impl Fn(Part) -> Option<Part>) -> TokenStream {
    let mut all: Vec<(Vec<Attribute>, Part)> = Vec::new();
    for (cfgs, field) in message.fields() {
        let cfgs = [message.repeated.clone(), cfgs].concat();
        let parts = asked_parts(&message.generics, &field.ty);
        for part in parts.into_iter().filter_map(&asked) {
            if !all.iter().any(|(others, other)| (others.is_empty() || *others == cfgs) && *other == part) {
                all.push((cfgs.clone(), part));
            }
        }
    }
    let lines = all.iter().map(|(cfgs, part)| {
        let predicate = is_asked(&message.krate, part);
        quote! {
            #(#cfgs)*
            const _: () = {
                #[allow(dead_code, reason = "only its bounds matter")]
                fn what_is_sent() where #predicate {}
            };
        }
    });
    quote!(#(#lines)*)
}

fn may_be_copied(message: &Message) -> bool {
    let is_struct = matches!(message.shape, Shape::Struct(_));
    is_struct
        && !message.recursive
        && message.generics.params.is_empty()
        && message.fields().iter().all(|(cfgs, field)| cfgs.is_empty() && syntax::may_be_copied(&field.ty))
}

/// What a field is made of that has to be asked about, and can be: what is the same for all values of the parameters.
fn asked_parts(generics: &Generics, ty: &Type) -> Vec<Part> {
    let own = Ident::new("Self", Span::call_site());
    let mut parts = parts(ty);
    parts.retain(|Part { ty, role }| {
        let known = is_known(ty) && (*role == Role::Message || !is_float(ty));
        is_fixed(generics, ty) && !known && !mentions(ty.to_token_stream(), &[&own])
    });
    parts
}

/// How a field is archived, if not just as its type says. With it, no derive fails for a field that is no message: so
/// [`check_parts`] is all that rustc says of it.
pub(crate) fn archived_with(krate: &Path, generics: &Generics, recursive: bool, ty: &Type) -> Option<Type> {
    let nested = recursive.then(|| quote!(#krate::private::Nested));
    match are(krate, generics, ty) {
        Some(are) => {
            let nested = nested.map(|nested| quote!(, #nested));
            Some(parse_quote!(#krate::private::Checked<{ #are } #nested>))
        }
        None => nested.map(|nested| parse_quote!(#nested)),
    }
}

/// How a field of another type is archived as `ty` is, which is `named` so, if that is a message.
pub(crate) fn archived_instead(krate: &Path, generics: &Generics, ty: &Type, named: &TokenStream) -> Type {
    let with = quote!(#krate::private::Instead<#named>);
    match are(krate, generics, ty) {
        Some(are) => parse_quote!(#krate::private::Checked<{ #are }, #with>),
        None => parse_quote!(#with),
    }
}

/// Whether all parts of a field are what they have to be, as a constant expression.
fn are(krate: &Path, generics: &Generics, ty: &Type) -> Option<TokenStream> {
    let parts = asked_parts(generics, ty);
    let asked = parts.iter().map(|Part { ty, role }| match role {
        Role::Message => quote!(#ty: MESSAGE),
        Role::HashedKey => quote!(#ty: HASHED_KEY),
        Role::OrderedKey => quote!(#ty: ORDERED_KEY),
        Role::Hasher => quote!(#ty: HASHER),
    });
    (!parts.is_empty()).then(|| quote!(#krate::private::are!(#(#asked),*)))
}

/// What a field is in the schema: its type, if all parts of it are what they have to be.
fn described(message: &Message, ty: &Type) -> TokenStream {
    let krate = &message.krate;
    match are(krate, &message.generics, ty).filter(|_| !may_be_copied(message)) {
        Some(are) => quote!(#krate::private::Checked<{ #are }, #ty>),
        None => quote!(#ty),
    }
}

pub(crate) fn once_each(parts: impl Iterator<Item = Part>) -> Vec<Part> {
    let mut seen = Vec::new();
    for part in parts {
        if !seen.contains(&part) {
            seen.push(part);
        }
    }
    seen
}

/// Refuses, on the type as the user wrote it, elements that are found to take no bytes when they are compiled.
pub(crate) fn refuse_empty_elements<'a>(
    krate: &Path,
    types: impl Iterator<Item = (Vec<Attribute>, &'a Type)>,
) -> TokenStream {
    let of_type = |ty: &Type| {
        let generic = |part: &Part| last_segment(&part.ty).is_some_and(|last| !last.arguments.is_empty());
        let inside = parts(ty).into_iter().filter(generic).map(|part| ("ELEMENTS_TAKE_BYTES", part.ty));
        let elements = elements(ty).into_iter().map(|ty| ("TAKES_BYTES", ty));
        elements.chain(inside).collect::<Vec<_>>()
    };
    let asked =
        types.flat_map(|(cfgs, ty)| of_type(ty).into_iter().map(move |(what, ty)| (cfgs.clone(), what, ty)));
    let mut seen: Vec<(Vec<Attribute>, &str, Type)> = Vec::new();
    for one in asked {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    let lines = seen.iter().map(|(cfgs, what, ty)| {
        let what = Ident::new(what, Span::call_site());
        let refuse = on(ty.span(), quote!(#krate::private::refuse_empty_elements));
        let held = fresh("Held", ty);
        let mut look = Group::new(Delimiter::Parenthesis, quote!(Look::<#held>::#what));
        look.set_span(end(ty));
        quote! {
            #(#cfgs)*
            const _: () = {
                type #held = #ty;
                #[allow(unused_imports, reason = "of no use for types that are messages")]
                use #krate::private::{Look, Overlook as _};
                #refuse #look
            };
        }
    });
    quote!(#(#lines)*)
}

/// Whether a type mentions none of the parameters.
pub(crate) fn is_fixed(generics: &Generics, ty: &Type) -> bool {
    let parameters: Vec<&Ident> = generics.params.iter().filter_map(parameter_name).collect();
    !mentions(ty.to_token_stream(), &parameters)
}

fn parameter_name(parameter: &GenericParam) -> Option<&Ident> {
    match parameter {
        GenericParam::Type(parameter) => Some(&parameter.ident),
        GenericParam::Const(parameter) => Some(&parameter.ident),
        GenericParam::Lifetime(_) => None,
    }
}

fn variant(message: &Message, variant: &Variant) -> TokenStream {
    let Variant { name, attrs, fields: body, discriminant } = variant;
    let cfgs = cfgs(attrs);
    let mut name = wire_name(name);
    if let Some(discriminant) = discriminant {
        name = format!("{name}={discriminant}");
    }
    let body = fields(message, body);
    quote!(#(#cfgs)* to.variant(#name, |to| { #body });)
}

fn fields(message: &Message, fields: &Fields) -> TokenStream {
    let krate = &message.krate;
    let lines = fields.iter().map(|field| {
        let (cfgs, ty) = (cfgs(&field.attrs), described(message, &field.ty));
        match &field.ident {
            Some(name) => {
                let name = wire_name(name);
                quote!(#(#cfgs)* to.field::<#ty>(#name);)
            }
            None => quote!(#(#cfgs)* to.element::<#ty>();),
        }
    });
    // Without fields, the closure would not use its parameter.
    let may_be_empty = fields.iter().all(|field| !cfgs(&field.attrs).is_empty());
    let unused = may_be_empty.then(|| quote!(let _: &mut #krate::Describe = to;));
    quote!(#unused #(#lines)*)
}

fn recursive(message: &Message) -> TokenStream {
    if message.recursive {
        return quote!(true);
    }
    let krate = &message.krate;
    let parts = message.fields().into_iter().map(|(cfgs, field)| {
        let fixed = is_fixed(&message.generics, &field.ty);
        let ty = described(message, &field.ty);
        // Of what depends on the parameters, `describe` says that it is no message.
        let is = if fixed {
            quote!(<#ty as #krate::Schema>::RECURSIVE)
        } else {
            quote!(#krate::private::are!(#ty: RECURSIVE))
        };
        quote!(#(#cfgs)* #is)
    });
    let parts = quote!(#(#parts),*);
    if parts.is_empty() { quote!(false) } else { quote!(#krate::Describe::any(&[#parts])) }
}

/// Whether collections have elements without bytes that depend on the parameters. Of a recursive message only those are
/// looked at that are of nothing else, since others would go in a circle.
fn empty_elements(message: &Message) -> Option<TokenStream> {
    let krate = &message.krate;
    let parameters: Vec<&Ident> = message.generics.type_params().map(|parameter| &parameter.ident).collect();
    let is_parameter = |part: &Part| match &part.ty {
        Type::Path(path) => parameters.iter().any(|name| path.path.is_ident(*name)),
        _ => false,
    };
    let looked_at = |ty: &Type| {
        let parts = parts(ty);
        !is_fixed(&message.generics, ty)
            && parts.iter().all(|part| !message.recursive || is_parameter(part) || is_known(&part.ty))
    };
    let fields =
        message.fields().into_iter().filter(|(_, field)| looked_at(&field.ty)).map(|(cfgs, field)| {
            let ty = described(message, &field.ty);
            quote!(#(#cfgs)* #krate::private::are!(#ty: EMPTY_ELEMENTS))
        });
    let fields = quote!(#(#fields),*);
    (!fields.is_empty()).then(|| quote!(const EMPTY_ELEMENTS: bool = #krate::Describe::any(&[#fields]);))
}
