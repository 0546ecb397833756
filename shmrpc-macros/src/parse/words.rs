//! Words that rustc takes in front of a trait or a method, and syn does not.

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};

use crate::errors::Errors;

/// The trait without them, each of which is refused.
pub(super) fn without_odd_words(item: TokenStream, errors: &Errors) -> TokenStream {
    let tokens: Vec<TokenTree> = item.into_iter().collect();
    let Some(at) = tokens.iter().position(|token| is(token, "trait")) else {
        return tokens.into_iter().collect();
    };
    let head = |position: usize| {
        position < at
            && tokens.iter().take(at).skip(position + 1).all(|token| is(token, "unsafe") || is(token, "auto"))
    };
    let kept = tokens.iter().enumerate().filter_map(|(position, token)| match token {
        TokenTree::Ident(word) if word == "const" && head(position) => {
            errors.refuse(word, "a service cannot be a const trait: its methods run in another process");
            None
        }
        TokenTree::Group(body) if position > at && body.delimiter() == Delimiter::Brace => {
            let mut without = Group::new(Delimiter::Brace, without_generators(body.stream(), errors));
            without.set_span(body.span());
            Some(TokenTree::Group(without))
        }
        other => Some(other.clone()),
    });
    kept.collect()
}

/// `gen fn` is a plain `fn` from here on, without its body, which may yield.
fn without_generators(methods: TokenStream, errors: &Errors) -> TokenStream {
    let mut methods = methods.into_iter().peekable();
    let (mut kept, mut generates): (Vec<TokenTree>, bool) = (Vec::new(), false);
    while let Some(token) = methods.next() {
        let before_fn =
            methods.peek().is_some_and(|next| ["fn", "unsafe", "extern"].iter().any(|word| is(next, word)));
        match token {
            TokenTree::Ident(word) if word == "gen" && before_fn => {
                refuse_generator(&word, errors);
                generates = true;
            }
            TokenTree::Group(body) if generates && body.delimiter() == Delimiter::Brace => {
                kept.extend(quote::quote!({ ::core::unreachable!() }));
                generates = false;
            }
            token => {
                generates &= !matches!(&token, TokenTree::Punct(mark) if mark.as_char() == ';');
                kept.push(token);
            }
        }
    }
    kept.into_iter().collect()
}

fn refuse_generator(word: &Ident, errors: &Errors) {
    errors.refuse(word, "a method of a service answers once: write a plain `fn` that returns a `Vec`");
}

fn is(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}
