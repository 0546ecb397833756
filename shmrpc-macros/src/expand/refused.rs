//! What stands in the place of the client, the view and the server of a service that was refused, so that it is refused once,
//! and not once more wherever somebody names them. Methods that were not refused are as always; the others take anything.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{
    FnArg, GenericParam, Generics, ItemTrait, Pat, PatType, ReturnType, Signature, TraitItem, Type,
    parse_quote,
};

use crate::check;
use crate::expand::client;
use crate::model::{Method, Service, cfgs};
use crate::schema;
use crate::syntax::{
    fixed_width, is_sizeless, is_str, last_segment, mentions, peel, type_arguments, wire_name,
};

/// The trait, less what rustc would refuse once more: what no trait or method of one can be, patterns, second parameters and
/// methods of one name, results of any size, and types that cannot stand where they do.
pub(crate) fn item(service: &Service) -> ItemTrait {
    let mut item = service.item.clone();
    item.modifiers.auto_token = None;
    let mut names: Vec<String> = Vec::new();
    item.items.retain_mut(|item| {
        let TraitItem::Fn(function) = item else { return true };
        let is_declared_only = function.default.is_none();
        (function.sig.constness, function.sig.variadic) = (None, None);
        let mut parameters: Vec<String> = Vec::new();
        for input in &mut function.sig.inputs {
            match input {
                FnArg::Receiver(receiver) if is_declared_only => receiver.mutability = None,
                FnArg::Receiver(_) => {}
                FnArg::Typed(typed) => parameter(typed, is_declared_only, &mut parameters),
            }
        }
        // `Self` may be without a size there.
        let own = |ty: &dyn ToTokens| mentions(ty.to_token_stream(), &[&format_ident!("Self")]);
        let takes_own = function.sig.inputs.iter().any(|input| match input {
            FnArg::Receiver(_) => false,
            FnArg::Typed(typed) => own(&typed.ty),
        });
        if let ReturnType::Type(_, ty) = &mut function.sig.output
            && !may_stand(ty)
        {
            **ty = parse_quote!(());
        }
        if takes_own || own(&function.sig.output) {
            function.sig.generics.make_where_clause().predicates.push(parse_quote!(Self: Sized));
        }
        let name = wire_name(&function.sig.ident);
        let again = names.contains(&name) && cfgs(&function.attrs).is_empty();
        names.push(name);
        !again
    });
    item
}

fn parameter(typed: &mut PatType, is_declared_only: bool, before: &mut Vec<String>) {
    match &*typed.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => {
            let name = wire_name(&pat.ident);
            if before.contains(&name) {
                *typed.pat = parse_quote!(_);
            }
            before.push(name);
        }
        _ if is_declared_only => *typed.pat = parse_quote!(_),
        _ => {}
    }
    if !may_stand(&typed.ty) {
        match &mut *typed.ty {
            Type::Reference(reference) => *reference.elem = parse_quote!(()),
            ty => *ty = parse_quote!(()),
        }
    }
}

/// Whether rustc lets a refused type stand as a parameter, as far as its spelling tells. It does not, if there is no
/// archive, or no size.
fn may_stand(ty: &Type) -> bool {
    const SIZED: [&str; 8] =
        ["Option", "Vec", "VecDeque", "Result", "HashMap", "HashSet", "BTreeMap", "BTreeSet"];
    match peel(ty) {
        Type::Reference(reference) => may_stand(&reference.elem),
        Type::Slice(slice) => has_size(&slice.elem) && may_stand(&slice.elem),
        Type::Array(array) => has_size(&array.elem) && may_stand(&array.elem),
        Type::Tuple(tuple) => tuple.elems.iter().all(|elem| has_size(elem) && may_stand(elem)),
        Type::Infer(_) | Type::Verbatim(_) => false,
        other => {
            let Some(last) = last_segment(other) else { return true };
            let arguments = type_arguments(last);
            if last.ident == "Archived" {
                return matches!(arguments[..], [ty] if has_archive(ty));
            }
            let sized = SIZED.iter().any(|name| last.ident == name);
            arguments.into_iter().all(|ty| may_stand(ty) && (!sized || has_size(ty)))
        }
    }
}

/// Whether a type has a size of its own, as far as its spelling tells.
fn has_size(ty: &Type) -> bool {
    match peel(ty) {
        Type::Slice(_) | Type::TraitObject(_) => false,
        ty => !is_str(ty) && !is_sizeless(ty),
    }
}

/// Whether rkyv archives a type: also some that are refused, and then rustc has nothing to say.
fn has_archive(ty: &Type) -> bool {
    let archived = last_segment(ty).is_some_and(|last| {
        let word = fixed_width(&last.ident).is_some() && !last.ident.to_string().starts_with("Atomic");
        let own = word || ["Rc", "Arc"].iter().any(|name| last.ident == name);
        own && type_arguments(last).into_iter().all(has_archive)
    });
    archived || check::is_fine(ty)
}

/// All of them.
pub(crate) fn expand(service: &Service) -> TokenStream {
    let Service { krate, item: _, repeated, vis, name, methods: _ } = service;
    let (client, view) = (format_ident!("{name}Client"), format_ident!("{name}View"));
    let server = format_ident!("{name}Server");
    let connecting = client::connecting(service);
    let bounds = schema::messages(service, |method, part| {
        check::asked(part).filter(|part| !is_generic(service, method, &part.ty))
    });
    let bounds = bounds.map(|bounds| quote!(where #bounds));
    let calls = calls(service, client::call, |_, ty| ty.to_token_stream());
    let view_calls = calls_of_view(service);
    let schema = quote!(#krate::private::ServiceSchema { name: "", methods: ::std::vec::Vec::new() });
    let allow = quote! {
        #[allow(missing_docs, unused_variables, dead_code, reason = "it was refused")]
    };
    let serving = serving(service, &server, &allow, &schema);
    quote! {
        #(#repeated)*
        #allow
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #vis struct #client(#krate::private::Channel);

        #(#repeated)*
        #allow
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #vis struct #view(#krate::private::Channel);

        #(#repeated)*
        #allow
        #[derive(::core::fmt::Debug)]
        #vis struct #server<Implementation: ?::core::marker::Sized, Held: ?::core::marker::Sized = Implementation>(
            ::core::marker::PhantomData<fn() -> Implementation>,
            Held,
        );

        #(#repeated)*
        impl #krate::Client for #client {
            type View = #view;
            fn from_channel(channel: #krate::private::Channel) -> Self { Self(channel) }
            fn channel(&self) -> &#krate::private::Channel { &self.0 }
            fn view(&self) -> #view { #view(::core::clone::Clone::clone(&self.0)) }
            fn schema() -> #krate::private::ServiceSchema { #schema }
        }

        #(#repeated)*
        #allow
        impl #client {
            #connecting
        }

        #(#repeated)*
        #allow
        impl #client #bounds {
            #calls
        }

        #(#repeated)*
        #allow
        impl #view #bounds {
            #view_calls
        }

        #serving
    }
}

fn serving(service: &Service, server: &Ident, allow: &TokenStream, schema: &TokenStream) -> TokenStream {
    let Service { krate, item: _, repeated, vis, name: _, methods: _ } = service;
    quote! {
        #(#repeated)*
        #allow
        impl<Implementation: ?::core::marker::Sized> #server<Implementation> {
            #vis fn new(service: Implementation) -> Self
            where
                Implementation: ::core::marker::Sized,
            {
                Self(::core::marker::PhantomData, service)
            }
            #vis fn from_arc(
                service: ::std::sync::Arc<Implementation>,
            ) -> #server<Implementation, ::std::sync::Arc<Implementation>> {
                #server(::core::marker::PhantomData, service)
            }
        }

        #(#repeated)*
        #allow
        impl<Implementation, Held> #krate::Service for #server<Implementation, Held>
        where
            Implementation: ?::core::marker::Sized + 'static,
            Held: ::core::marker::Send + ::core::marker::Sync + 'static,
        {
            fn schema(&self) -> #krate::private::ServiceSchema { #schema }
            fn dispatch(&self, _: u16, _: #krate::private::Request<'_>) -> #krate::private::Answered {
                ::core::unreachable!()
            }
        }
    }
}

fn calls_of_view(service: &Service) -> TokenStream {
    let krate = &service.krate;
    let call = |service: &Service, method: &Method| client::view_call(service, method).unwrap_or_default();
    calls(service, call, |method, ty| {
        let is_shown = check::is_fine(ty) && !is_generic(service, method, ty);
        if is_shown { quote!(#krate::View<#ty>) } else { ty.to_token_stream() }
    })
}

/// The methods, as they were read and as they are written.
fn signatures(service: &Service) -> impl Iterator<Item = (&Method, &Signature)> {
    let functions = service.item.items.iter().filter_map(|item| match item {
        TraitItem::Fn(function) => Some(&function.sig),
        _ => None,
    });
    service.methods.iter().zip(functions)
}

/// Whether a type of a method names parameters of it or of its trait, which nobody else knows.
fn is_generic(service: &Service, method: &Method, ty: &Type) -> bool {
    let mut signatures = signatures(service).filter(|(other, _)| other.index == method.index);
    let own = signatures.next().map(|(_, written)| &written.generics);
    own.into_iter().chain([&service.item.generics]).any(|generics| names_one_of(generics, ty))
}

fn names_one_of(generics: &Generics, ty: &Type) -> bool {
    let names = generics.params.iter().map(|parameter| match parameter {
        GenericParam::Lifetime(parameter) => &parameter.lifetime.ident,
        GenericParam::Type(parameter) => &parameter.ident,
        GenericParam::Const(parameter) => &parameter.ident,
    });
    mentions(ty.to_token_stream(), &names.collect::<Vec<_>>())
}

/// The methods that the client can have: the first one of each name. Those that were refused return what is `returned` for
/// their type.
fn calls(
    service: &Service,
    call: impl Fn(&Service, &Method) -> TokenStream,
    returned: impl Fn(&Method, &Type) -> TokenStream,
) -> TokenStream {
    let written = signatures(service).filter(|(method, _)| {
        let name = wire_name(&method.name);
        let before = service.methods.iter().take_while(|other| other.index < method.index);
        let mut again = before.filter(|other| wire_name(&other.name) == name);
        !check::is_reserved(&name) && !again.any(|other| other.cfgs.is_empty() || method.cfgs.is_empty())
    });
    let is_generic = |method: &Method| {
        let params = method.params.iter().map(|param| &param.written);
        method.messages().chain(params).any(|ty| is_generic(service, method, ty))
    };
    let calls = written.map(|(method, written)| {
        match method.refused || !check::is_fine_method(method) || is_generic(method) {
            true => anything(service, method, written, |ty| returned(method, ty)),
            false => call(service, method),
        }
    });
    quote!(#(#calls)*)
}

/// A method that takes what it is given, and returns what is `returned` for what was written, if that can stand there.
fn anything(
    service: &Service,
    method: &Method,
    written: &Signature,
    returned: impl Fn(&Type) -> TokenStream,
) -> TokenStream {
    let (krate, vis) = (&service.krate, &service.vis);
    let Method { index: _, name, cfgs, attrs: _, deprecated: _, refused: _, params: _, reply: _ } = method;
    let params = written.inputs.iter().filter(|input| matches!(input, FnArg::Typed(_)));
    let params = (0..params.count()).map(|position| {
        let name = format_ident!("_{position}");
        quote!(#name: impl ::core::marker::Sized)
    });
    let types: Vec<Type> = match &written.output {
        ReturnType::Default => vec![parse_quote!(())],
        ReturnType::Type(_, ty) => match last_segment(ty).filter(|last| last.ident == "Result") {
            Some(last) => type_arguments(last).into_iter().cloned().collect(),
            None => vec![(**ty).clone()],
        },
    };
    let own = |ty: &Type| mentions(ty.to_token_stream(), &[&format_ident!("Self")]);
    let stands = service.item.generics.params.is_empty()
        && types.iter().all(|ty| {
            !own(ty)
                && has_size(ty)
                && may_stand(ty)
                && matches!(peel(ty), Type::Path(_) | Type::Tuple(_) | Type::Array(_) | Type::Reference(_))
        });
    let result = match &types[..] {
        [ok, err] if stands => {
            let ok = returned(ok);
            quote!(#ok, #krate::CallError<#err>)
        }
        [ok] if stands => {
            let ok = returned(ok);
            quote!(#ok, #krate::CallError)
        }
        _ => quote!((), #krate::CallError),
    };
    // Nobody could say what they are, where only parameters name them.
    let generics = stands.then_some(&written.generics);
    let generics = generics.filter(|generics| types.iter().any(|ty| names_one_of(generics, ty)));
    let clause = generics.map(|generics| &generics.where_clause);
    quote! {
        #(#cfgs)*
        #vis fn #name #generics(&self #(, #params)*) -> ::core::result::Result<#result> #clause {
            ::core::unreachable!()
        }
    }
}
