//! What a service and a message are, once they are known to be well formed. Plain data; no rules.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::visit::Visit;
use syn::{
    Attribute, DeriveInput, Field, Fields, Generics, Ident, ItemTrait, Meta, Path, Type, Visibility,
    parse_quote,
};

use crate::syntax::{may_be_an_alias, mentions, replaced};

/// A service: one trait.
#[derive(Debug)]
pub(crate) struct Service {
    /// Where generated code finds shmrpc.
    pub(crate) krate: Path,
    /// The trait as it will be emitted: as written, less the markers.
    pub(crate) item: ItemTrait,
    /// Attributes of the trait that every generated item repeats: `#[cfg]`s, and lints that are allowed.
    pub(crate) repeated: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) name: Ident,
    pub(crate) methods: Vec<Method>,
}

/// One method of a service.
#[derive(Debug)]
pub(crate) struct Method {
    /// Position in the trait as written, before `#[cfg]`: what a request names.
    pub(crate) index: u16,
    pub(crate) name: Ident,
    /// `#[cfg]`s, which every arm, method and list element repeats.
    pub(crate) cfgs: Vec<Attribute>,
    /// Attributes that the client's method repeats: docs, `deprecated`, `must_use`, and lints that are allowed.
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) deprecated: bool,
    /// Whether anything of it could not be read.
    pub(crate) refused: bool,
    /// All parameters as written, the context included.
    pub(crate) params: Vec<Param>,
    pub(crate) reply: Reply,
}

/// One parameter of a method.
#[derive(Debug)]
pub(crate) struct Param {
    /// None if its pattern was refused.
    pub(crate) name: Option<Ident>,
    pub(crate) kind: ParamKind,
    /// The type as written.
    pub(crate) written: Type,
}

/// How a parameter travels.
#[derive(Debug)]
pub(crate) enum ParamKind {
    /// `T`: sent as itself, decoded for the handler.
    Owned,
    /// `&Archived<T>`: sent as `T`, read where it arrived.
    Archived(Type),
    /// `&T` of anything else: refused, but not before `T` was looked at, too.
    Borrowed(Type),
    /// `&str`: sent as `String`, read where it arrived.
    Text,
    /// `&[n]` of plain numbers `n`: sent as `Vec<n>`, read where it arrived.
    Numbers(Type),
    /// `Blob<n>` of plain numbers `n`: sent as it lies.
    Blob(Type),
    /// `OwnedFd`: goes beside what is sent, where this says which of those it is.
    Descriptor(u32),
    /// `&Context`: made by the server, not sent.
    Context,
}

/// How a method answers.
#[derive(Debug)]
pub(crate) enum Reply {
    /// `#[oneway]`: not at all.
    OneWay,
    /// `T` or nothing, which is `()`.
    Plain(Type),
    /// `Result<T, E>`.
    Fallible { ok: Type, err: Box<Type> },
    /// `Blob<n>`, or `Result<Blob<n>, E>`.
    Blob { number: Type, err: Option<Box<Type>> },
    /// `OwnedFd`, or `Result<OwnedFd, E>`.
    Descriptor { err: Option<Box<Type>> },
}

/// A message: a struct or an enum.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Where generated code finds shmrpc.
    pub(crate) krate: Path,
    /// The item as written.
    pub(crate) item: DeriveInput,
    /// Attributes that every generated item repeats: `#[cfg]`s, and lints that are allowed.
    pub(crate) repeated: Vec<Attribute>,
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    /// Contains itself, directly or through others.
    pub(crate) recursive: bool,
    pub(crate) shape: Shape,
}

/// What a message holds.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Struct(Fields),
    Enum(Vec<Variant>),
}

/// One variant of an enum message.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    pub(crate) name: Ident,
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) fields: Fields,
    /// An explicit discriminant, which is part of the archive's bytes.
    pub(crate) discriminant: Option<u8>,
}

impl Method {
    /// The parameters that are sent: all but the context.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|param| !matches!(param.kind, ParamKind::Context))
    }

    /// The types that have to be messages, as written.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Type> {
        let sent = self.params.iter().filter_map(|param| match &param.kind {
            ParamKind::Owned => Some(&param.written),
            ParamKind::Archived(inner) => Some(inner),
            // It may stand for a `Context`, which is no message.
            ParamKind::Borrowed(ty) if may_be_an_alias(ty) => None,
            ParamKind::Borrowed(ty) => Some(ty),
            ParamKind::Text
            | ParamKind::Numbers(_)
            | ParamKind::Blob(_)
            | ParamKind::Descriptor(_)
            | ParamKind::Context => None,
        });
        let returned: Vec<&Type> = match &self.reply {
            Reply::OneWay => vec![],
            Reply::Plain(ok) => vec![ok],
            Reply::Fallible { ok, err } => vec![ok, err],
            Reply::Blob { number: _, err } | Reply::Descriptor { err } => {
                err.iter().map(|err| &**err).collect()
            }
        };
        sent.chain(returned)
    }
}

impl Message {
    /// When it has a variant at all, if `#[cfg]` decides that: the condition.
    pub(crate) fn has_variants(&self) -> Option<TokenStream> {
        let Shape::Enum(variants) = &self.shape else { return None };
        let conditions = variants.iter().map(|variant| {
            let cfgs = cfgs(&variant.attrs);
            let conditions = cfgs.iter().map(|attr| attr.parse_args::<TokenStream>().unwrap_or_default());
            (!cfgs.is_empty()).then(|| quote!(all(#(#conditions),*)))
        });
        let conditions: Vec<TokenStream> = conditions.collect::<Option<_>>()?;
        (!conditions.is_empty()).then(|| quote!(any(#(#conditions),*)))
    }

    /// The same message, whose fields are said to be of types that mean the same everywhere.
    pub(crate) fn by_name(&self) -> Self {
        let mut message = self.clone();
        let name = |fields: &mut Fields| fields.iter_mut().for_each(|field| self.name_in(&mut field.ty));
        match &mut message.shape {
            Shape::Struct(fields) => name(fields),
            Shape::Enum(variants) => variants.iter_mut().for_each(|variant| name(&mut variant.fields)),
        }
        message
    }

    /// Puts the message by its name in the place of `Self`, which is another one where the archive is.
    pub(crate) fn name_in(&self, ty: &mut Type) {
        let own = Ident::new("Self", Span::call_site());
        if !mentions(ty.to_token_stream(), &[&own]) {
            return;
        }
        let (_, generics, _) = self.generics.split_for_impl();
        let (name, generics) = (&self.name, generics.as_turbofish());
        let tokens = replaced(ty.to_token_stream(), &|ident| {
            let named = quote!(#name #generics).into_iter().map(|mut token| {
                token.set_span(token.span().located_at(ident.span()));
                token
            });
            (*ident == own).then(|| named.collect())
        });
        *ty = parse_quote!(#tokens);
    }

    /// The same message where a condition holds.
    pub(crate) fn under(&self, condition: &TokenStream) -> Self {
        let mut message = self.clone();
        let cfg: Attribute = parse_quote!(#[cfg(#condition)]);
        message.repeated.push(cfg.clone());
        message.item.attrs.push(cfg);
        message
    }

    /// All fields, of all variants, each with the `#[cfg]`s under which it exists.
    pub(crate) fn fields(&self) -> Vec<(Vec<Attribute>, &Field)> {
        match &self.shape {
            Shape::Struct(fields) => fields.iter().map(|field| (cfgs(&field.attrs), field)).collect(),
            Shape::Enum(variants) => {
                let of_variant =
                    |variant: &Variant, field: &Field| [cfgs(&variant.attrs), cfgs(&field.attrs)].concat();
                let fields = variants.iter().flat_map(|variant| {
                    variant.fields.iter().map(move |field| (of_variant(variant, field), field))
                });
                fields.collect()
            }
        }
    }
}

/// What everything that is generated of a message repeats. Of its fields only what is deprecated matters: of their names
/// nothing is said, and clippy would tell of attributes that two of them have.
pub(crate) fn repeated_of_message(item: &DeriveInput) -> Vec<Attribute> {
    let mut all = Attributes(Vec::new());
    all.visit_derive_input(item);
    let of_old = names_what_is_old(&all.0).then(allow_what_is_old);
    cfgs(&item.attrs).into_iter().chain(allowed(&item.attrs)).chain(of_old).collect()
}

/// What everything that is generated of a service repeats. A method that is deprecated is not used elsewhere.
pub(crate) fn repeated_of_service(item: &ItemTrait) -> Vec<Attribute> {
    let mut all = Attributes(Vec::new());
    item.items.iter().for_each(|item| all.visit_trait_item(item));
    all.0.retain(|attr| !attr.path().is_ident("deprecated"));
    let is_old = names_what_is_old(&item.attrs) || names_what_is_old(&all.0);
    let own = [cfgs(&item.attrs), allowed(&item.attrs)].concat();
    own.into_iter().chain(is_old.then(allow_what_is_old)).collect()
}

struct Attributes(Vec<Attribute>);

impl Visit<'_> for Attributes {
    fn visit_attribute(&mut self, attr: &Attribute) {
        self.0.push(attr.clone());
    }
}

/// Whether attributes say that something is deprecated, or that this may be used, also if `cfg_attr` decides that.
pub(crate) fn names_what_is_old(attrs: &[Attribute]) -> bool {
    let names = ["deprecated", "warnings"].map(|name| Ident::new(name, Span::call_site()));
    attrs.iter().any(|attr| mentions(attr.meta.to_token_stream(), &names.each_ref()))
}

fn allow_what_is_old() -> Attribute {
    parse_quote!(#[allow(deprecated, reason = "whoever uses it elsewhere is told")])
}

/// The `#[cfg]`s among `attrs`.
pub(crate) fn cfgs(attrs: &[Attribute]) -> Vec<Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("cfg")).cloned().collect()
}

/// The lints that `attrs` allow, and those that they expect: these are allowed in what is generated, where there may be
/// nothing to expect. What else they say of lints is for what the user wrote.
pub(crate) fn allowed(attrs: &[Attribute]) -> Vec<Attribute> {
    let allowed = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::List(list) if list.path.is_ident("allow") => Some(attr.clone()),
        Meta::List(list) if list.path.is_ident("expect") => {
            let lints = &list.tokens;
            Some(parse_quote!(#[allow(#lints)]))
        }
        _ => None,
    });
    allowed.collect()
}
