//! The parts of an expansion that describe types: `Schema` impls of messages, and the list of a service's methods.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Fields, GenericParam, Generics, Ident, Path, Type, WherePredicate, parse_quote};

use crate::model::{Message, Method, Param, ParamKind, Reply, Service, Shape, Variant, cfgs};
use crate::syntax::{Part, Role, elements, end, parts, wire_name};

/// The value of `Client::schema`.
pub(crate) fn service(service: &Service) -> TokenStream {
    let Service { krate, item: _, cfgs: _, vis: _, name, methods } = service;
    let name = wire_name(name);
    let methods = methods.iter().map(|method| method_schema(service, method));
    quote! {
        #krate::private::ServiceSchema {
            name: #name,
            methods: ::std::vec::Vec::from([#(#methods),*]),
        }
    }
}

fn method_schema(service: &Service, method: &Method) -> TokenStream {
    let krate = &service.krate;
    let Method { index, name, cfgs, attrs: _, deprecated: _, params: _, reply } = method;
    let name = wire_name(name);
    let wire = arguments(krate, method);
    let constructor = match reply {
        Reply::OneWay => quote!(oneway::<#wire>),
        Reply::Plain(ok) => quote!(unary::<#wire, #ok>),
        Reply::Fallible { ok, err } => quote!(fallible::<#wire, #ok, #err>),
        Reply::Blob { number, err: None } => quote!(unary::<#wire, #krate::private::BlobWire<#number>>),
        Reply::Blob { number, err: Some(err) } => {
            quote!(fallible::<#wire, #krate::private::BlobWire<#number>, #err>)
        }
    };
    quote!(#(#cfgs)* #krate::private::MethodSchema::#constructor(#index, #name))
}

/// The tuple of types that a method's request carries.
pub(crate) fn arguments(krate: &Path, method: &Method) -> TokenStream {
    let types = method.sent().map(|Param { name: _, kind, written }| match kind {
        ParamKind::Archived(inner) => quote!(#inner),
        ParamKind::Text => quote!(::std::string::String),
        ParamKind::Numbers(number) => quote!(::std::vec::Vec<#number>),
        ParamKind::Blob(number) => quote!(#krate::private::BlobWire<#number>),
        ParamKind::Owned | ParamKind::Context => quote!(#written),
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
    let Message { krate, item: _, cfgs, name, generics, recursive: _, shape } = message;
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#krate::Message));
    }
    generics
        .make_where_clause()
        .predicates
        .extend(fixed_parts(message).iter().map(|part| is_asked(krate, part)));
    let is_message = impl_message(message);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let recursive = recursive(message);
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
        #(#cfgs)*
        #[automatically_derived]
        impl #impl_generics #krate::Schema for #name #type_generics #where_clause {
            const RECURSIVE: bool = #recursive;

            fn describe(to: &mut #krate::Describe) {
                #describe
            }
        }

        #is_message
    }
}

/// `impl Message` of a message. Whether a generic one can travel, rkyv decides for each of its arguments.
fn impl_message(message: &Message) -> TokenStream {
    let Message { krate, item: _, cfgs, name, generics, recursive: _, shape: _ } = message;
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#krate::Message));
    }
    let predicates = &mut generics.make_where_clause().predicates;
    predicates.extend(fixed_parts(message).iter().map(|part| is_asked(krate, part)));
    if !message.generics.params.is_empty() {
        predicates.push(parse_quote!(Self: #krate::private::Wire));
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #impl_generics #krate::Message for #name #type_generics #where_clause {}
    }
}

/// That a part is what it has to be, reported on it as the user wrote it.
pub(crate) fn is_asked(krate: &Path, part: &Part) -> WherePredicate {
    bound(
        &part.ty,
        match part.role {
            Role::Message => quote!(#krate::Message),
            Role::HashedKey => quote!(#krate::private::HashedKey),
            Role::OrderedKey => quote!(#krate::private::OrderedKey),
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
/// that is no message, and not every use of it. A predicate cannot have a `#[cfg]`, so methods that have one are left out,
/// and so are types that are not `asked` about.
pub(crate) fn messages(service: &Service, asked: impl Fn(&Type) -> bool) -> Option<TokenStream> {
    let krate = &service.krate;
    let always = service.methods.iter().filter(|method| method.cfgs.is_empty());
    let types = always.flat_map(Method::messages).filter(|ty| asked(ty));
    let predicates = once_each(types.flat_map(parts)).into_iter().map(|part| is_asked(krate, &part));
    let predicates = quote!(#(#predicates),*);
    (!predicates.is_empty()).then_some(predicates)
}

/// What the fields are made of whose types are the same for all values of the parameters, once each. A predicate cannot
/// have a `#[cfg]`, so fields that have one are left out; and of a recursive message all are, since they would go in a
/// circle.
pub(crate) fn fixed_parts(message: &Message) -> Vec<Part> {
    let fields = message.fields().into_iter().filter(|(cfgs, _)| cfgs.is_empty() && !message.recursive);
    let types = fields.map(|(_, field)| &field.ty).filter(|ty| is_fixed(&message.generics, ty));
    once_each(types.flat_map(parts))
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
    let elements = types.flat_map(|(cfgs, ty)| elements(ty).into_iter().map(move |ty| (cfgs.clone(), ty)));
    let mut seen: Vec<(Vec<Attribute>, Type)> = Vec::new();
    for one in elements {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    let lines = seen.iter().map(|(cfgs, ty)| {
        let refuse = on(ty.span(), quote!(#krate::private::refuse_empty_elements));
        let mut look = Group::new(Delimiter::Parenthesis, quote!(Look::<#ty>::TAKES_BYTES));
        look.set_span(end(ty));
        quote! {
            #(#cfgs)*
            const _: () = {
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

fn mentions(tokens: TokenStream, names: &[&Ident]) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => names.iter().any(|name| **name == ident),
        TokenTree::Group(group) => mentions(group.stream(), names),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
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
        let (cfgs, ty) = (cfgs(&field.attrs), &field.ty);
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
        let ty = &field.ty;
        quote!(#(#cfgs)* <#ty as #krate::Schema>::RECURSIVE)
    });
    let parts = quote!(#(#parts),*);
    if parts.is_empty() { quote!(false) } else { quote!(#krate::Describe::any(&[#parts])) }
}
