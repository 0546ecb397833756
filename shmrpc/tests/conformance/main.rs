//! What holds over every transport, written once: a list of features, a list of grounds, and every feature on every ground.
//!
//! A new ground is a line of [`GROUNDS`], and what its builders say in `ground`. A new feature is a function in one of
//! the modules, and its name in `features!`. What cannot happen on a ground stands in [`CANNOT`], with the reason.
#![allow(missing_docs, reason = "tests")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests; their helpers too"
)]

mod blobs;
mod calls;
mod deadlines;
mod death;
mod descriptors;
mod drain;
mod errors;
mod forks;
mod ground;
mod kinds;
mod limits;
mod meeting;
mod reconnect;
mod service;
mod services;
#[path = "../support/mod.rs"]
mod support;
mod views;

use ground::{At, Ground, How};
use shmrpc::{Memory, Transport};

/// Hands all features to a macro, behind what it gets besides.
macro_rules! features {
    ($then:ident $($more:tt)*) => {
        $then! { $($more)*
            calls::calls_of_every_kind
            calls::payloads_of_every_size
            calls::payloads_of_no_size
            calls::one_way_calls_keep_their_order
            calls::no_call_overtakes_a_one_way_call
            calls::sixty_four_threads_call_at_once
            kinds::values_of_every_type
            kinds::arguments_of_every_kind_at_once
            kinds::slices_and_blobs_of_every_number
            services::services_of_one_endpoint_are_not_mixed_up
            services::methods_with_bodies_cfgs_and_odd_names
            views::a_view_outlives_its_client_and_the_connection
            views::views_are_read_where_trust_lets_them
            blobs::blobs_go_both_ways
            blobs::a_blob_may_be_kept_and_a_loan_that_is_not_sent_comes_back
            blobs::blobs_of_sixteen_mebibytes
            blobs::blobs_around_the_limit_pass_or_are_refused
            blobs::blobs_that_are_kept_push_back
            blobs::what_one_process_lent_is_no_others
            blobs::a_blob_that_its_caller_does_not_take_fails_its_call
            descriptors::descriptors_go_both_ways
            errors::service_errors_are_the_handlers_own
            errors::panicked_and_the_server_goes_on
            errors::bad_reply_if_the_result_is_too_large
            errors::bad_reply_if_the_result_is_not_what_it_should_be
            errors::bad_arguments_fail_their_call_only
            errors::unknown_method_of_a_newer_client
            errors::overloaded_if_no_lane_is_served
            errors::overloaded_if_every_lane_is_in_use
            errors::overloaded_if_there_is_no_room_for_a_copy
            errors::not_encoded_if_too_large_or_too_deep
            errors::not_encoded_if_no_memory_is_left
            errors::deadline_exceeded_is_unknown_once_it_was_sent
            errors::deadline_exceeded_is_not_run_if_it_never_left
            errors::disconnected_is_unknown_in_the_handler_and_not_run_later
            forks::forked_clients_are_their_parents
            meeting::the_transport_is_what_was_asked_for
            meeting::whoever_calls_is_a_process_of_this_host_or_an_address
            meeting::what_differs_is_refused_by_name
            meeting::one_connection_too_many_is_refused_with_a_reason
            meeting::a_name_that_nobody_serves_is_named
            limits::arguments_around_the_limit_pass_or_are_refused
            limits::results_around_the_limit_pass_or_are_refused
            limits::lanes_are_shared_where_the_server_has_no_more
            limits::sixty_four_calls_are_all_at_once
            limits::views_that_are_held_push_back
            limits::all_clients_together_have_so_much
            limits::values_have_a_bound
            deadlines::a_slow_call_holds_up_nobody
            deadlines::a_late_reply_is_for_no_other_call
            deadlines::a_handler_is_told_what_is_left
            deadlines::a_frozen_server_costs_its_callers_their_time_and_no_more
            drain::calls_in_flight_finish_and_new_ones_do_not_run
            drain::what_was_sent_before_is_served_in_order
            drain::calls_made_meanwhile_run_or_do_not
            drain::a_stuck_handler_is_given_up
            drain::one_way_calls_run_though_their_client_is_dropped
            drain::a_client_that_is_dropped_waits_for_nothing_else
            death::a_killed_server_is_told_to_every_thread_once
            death::a_killed_client_gives_everything_back
            reconnect::a_client_comes_back_after_a_shutdown
            reconnect::a_client_comes_back_after_a_death
            reconnect::a_client_comes_back_after_a_kill
            reconnect::new_calls_go_to_the_successor_while_the_old_server_finishes
            reconnect::another_server_has_its_own_ids
            reconnect::another_shape_is_a_clear_error
            reconnect::a_blob_lent_before_is_not_lost
            reconnect::no_call_overtakes_a_one_way_call_to_the_old_server
            reconnect::a_client_that_is_told_not_to_does_not_come_back
            reconnect::without_a_server_a_call_has_its_time_and_says_why
        }
    };
}

/// A feature that cannot be had on some grounds, which ones, and why.
type Cannot = (&'static str, fn(&Ground) -> bool, &'static str);

/// All that is not tested everywhere.
const CANNOT: &[Cannot] = &[
    (
        "overloaded_if_there_is_no_room_for_a_copy",
        |ground| ground.in_place,
        "large arguments are read where they lie, and not copied",
    ),
    (
        "not_encoded_if_no_memory_is_left",
        |ground| !ground.in_place,
        "what is sent lies in shared memory for as long as its copy takes, or in none",
    ),
    #[cfg(feature = "tls")]
    (
        "deadline_exceeded_is_not_run_if_it_never_left",
        |ground| ground.transport == Transport::Tls,
        "a small frame is encrypted whole before the socket takes it, and cannot be taken back",
    ),
    (
        "a_frozen_server_costs_its_callers_their_time_and_no_more",
        |ground| ground.transport == Transport::Inproc,
        "client and server are one process, and freeze together",
    ),
    (
        "what_one_process_lent_is_no_others",
        |ground| ground.transport == Transport::Inproc,
        "client and server are one process, and have no other",
    ),
    (
        "a_client_comes_back_after_a_kill",
        |ground| ground.transport == Transport::Inproc,
        "client and server are one process, and die together",
    ),
    (
        "a_killed_server_is_told_to_every_thread_once",
        |ground| ground.transport == Transport::Inproc,
        "client and server are one process, and die together",
    ),
    (
        "a_killed_client_gives_everything_back",
        |ground| ground.transport == Transport::Inproc,
        "client and server are one process, and die together",
    ),
];

/// Runs a feature on a ground, if it can be had there.
fn run(feature: &str, ground: &str, part: fn(Ground)) {
    let ground = Ground::named(ground).unwrap();
    match CANNOT.iter().find(|(name, cannot, _)| *name == feature && cannot(&ground)) {
        Some((.., why)) => println!("not on this ground: {why}"),
        None => part(ground),
    }
}

macro_rules! grounds {
    ($($(#[$cfg:meta])? $name:ident: $ground:expr,)*) => {
        /// All grounds, by name.
        const GROUNDS: &[(&str, Ground)] = &[
            $($(#[$cfg])? (stringify!($name), Ground { name: stringify!($name), ..$ground }),)*
        ];
        $($(#[$cfg])? mod $name {
            features! { tests $name; }
        })*
    };
}

macro_rules! tests {
    ($ground:ident; $($module:ident::$feature:ident)*) => {
        $(#[test]
        fn $feature() {
            crate::run(stringify!($feature), stringify!($ground), crate::$module::$feature);
        })*
    };
}

macro_rules! names {
    ($($module:ident::$feature:ident)*) => { &[$(stringify!($feature)),*] };
}

const FEATURES: &[&str] = features! { names };

grounds! {
    shm: Ground::new(At::Path("shm"), Transport::Shm).sharing().in_place(),
    shm_untrusted: Ground::new(At::Path("shm"), Transport::Shm).sharing().how(How::Untrusted),
    shm_posix: Ground::new(At::Path("shm"), Transport::Shm).sharing().in_place().how(How::Memory(Memory::PosixShm)),
    uds: Ground::new(At::Path("uds"), Transport::Uds).sharing().in_place(),
    uds_untrusted: Ground::new(At::Path("uds"), Transport::Uds).sharing().how(How::Untrusted),
    uds_abstract: Ground::new(At::Abstract, Transport::Uds).sharing().in_place(),
    uds_only: Ground::new(At::Path("uds"), Transport::Uds).how(How::WithoutMemory),
    tcp: Ground::new(At::Port("tcp:127.0.0.1:0"), Transport::Tcp),
    tcp_ipv6: Ground::new(At::Port("tcp:[::1]:0"), Transport::Tcp),
    #[cfg(feature = "tls")]
    tls: Ground::new(At::Port("tls:127.0.0.1:0"), Transport::Tls).how(How::Tls),
    inproc: Ground::new(At::Name("inproc"), Transport::Inproc),
}

// The children's parts. They return at once when they run as tests.

#[test]
fn child_server() {
    death::server();
}

#[test]
fn child_client() {
    death::client();
}

#[test]
fn child_lender() {
    blobs::lender();
}

#[test]
fn child_that_forks() {
    forks::parent();
}

#[test]
fn what_cannot_be_had_is_a_feature_and_is_had_somewhere() {
    for (feature, cannot, _) in CANNOT {
        assert!(FEATURES.contains(feature), "{feature} is no feature");
        let had = GROUNDS.iter().filter(|(_, ground)| !cannot(ground)).count();
        assert!(0 < had && had < GROUNDS.len(), "{feature} is had on {had} grounds");
    }
}

/// The table of `CallError` has a row for each variant, and each row has its feature here.
#[test]
fn every_variant_of_call_error_has_its_feature() {
    let source = include_str!("../../src/error.rs");
    let table = source.lines().skip_while(|line| !line.contains("| variant |")).skip(2);
    let rows = table.map_while(|line| line.strip_prefix("/// | `")?.split_once('`'));
    let rows: Vec<_> = rows.map(|(variant, _)| variant).collect();
    let body = source.split("pub enum CallError").nth(1).unwrap().split("\n}").next().unwrap();
    let variants = body.matches("#[error(").count();
    assert_eq!(rows.len(), variants, "the table has {rows:?}");
    for variant in rows {
        let words = variant.split_inclusive(char::is_lowercase).collect::<String>();
        let snake: String = words.char_indices().fold(String::new(), |mut snake, (at, letter)| {
            if letter.is_uppercase() && at > 0 {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
            snake
        });
        assert!(FEATURES.iter().any(|feature| feature.starts_with(&snake)), "{variant} has no feature");
    }
}
