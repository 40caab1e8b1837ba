//! One script for each thing that must hold, many of them after the defects of other updaters.

use super::world::check;

const TWO_RINGS: &str = "
    ring pilot hosts=a,b
    ring early hosts=c,d
";

fn two_rings(script: &str) {
    check(&format!("{TWO_RINGS}{script}"));
}

#[test]
fn a_release_goes_through_both_rings() {
    two_rings(
        "a -> nothing-promoted
         promote 1.1 to pilot
         pilot -> running: hosts-not-ready
         a -> offer 1.1 #1
         a asks -> lease 600s
         pilot -> running
         a begins
         a switches
         a commits
         a -> up to date
         b asks -> lease 600s
         b commits
         pilot -> soaking
         promote 1.1 to early
         early -> waiting: behind
         +10m
         pilot -> done
         early -> running: hosts-not-ready
         c asks -> lease 600s
         c commits
         d asks -> lease 600s
         d commits
         +10m
         early -> done
         counts early -> 2 healthy",
    );
}

#[test]
fn a_ring_waits_until_the_one_before_has_soaked() {
    two_rings(
        "promote 1.1 to pilot
         promote 1.1 to early
         c -> behind
         a asks
         a commits
         c -> behind
         b asks
         b commits
         +9m
         c -> behind
         c asks -> behind
         +1m
         c -> offer 1.1 #1",
    );
}

#[test]
fn a_proven_ring_opens_nothing_that_was_not_promoted() {
    two_rings(
        "promote 1.1 to pilot
         a asks
         a commits
         b asks
         b commits
         +10m
         pilot -> done
         early -> nothing: nothing-promoted
         c -> nothing-promoted",
    );
}

#[test]
fn a_proven_ring_opens_the_next_for_the_same_release_only() {
    two_rings(
        "promote 1.1 to pilot
         a asks
         a commits
         b asks
         b commits
         +10m
         promote 1.2 to early
         early -> waiting: behind
         promote 1.1 to early
         early -> running: hosts-not-ready",
    );
}

#[test]
fn a_ring_stops_when_the_one_before_goes_back() {
    two_rings(
        "promote 1.1 to pilot
         a asks
         a commits
         b asks
         b commits
         +10m
         promote 1.1 to early
         c asks -> lease 600s
         rollback pilot
         early -> running: behind
         d -> behind
         d asks -> behind
         a asks -> lease 600s
         a commits
         b asks -> lease 600s
         b commits
         pilot -> rolled-back
         d -> behind
         d asks -> behind",
    );
}

#[test]
fn an_empty_ring_is_shown_and_does_not_block() {
    check(
        "ring pilot flight=1
         ring early hosts=c
         promote 1.1 to pilot
         promote 1.1 to early
         pilot -> waiting: no-hosts
         c -> offer 1.1 #1",
    );
}

#[test]
fn a_ring_without_limits_does_not_move() {
    check(
        "ring pilot hosts=none
         a joins pilot
         promote 1.1 to pilot
         pilot -> waiting: no-policy
         a asks -> no-policy",
    );
}

#[test]
fn a_host_in_no_ring_is_left_alone_and_shown() {
    two_rings(
        "promote 1.1 to pilot
         a moves to none
         a -> no-ring
         a asks -> no-ring
         counts pilot -> 1 waiting",
    );
}

#[test]
fn waves_go_by_number_and_the_last_takes_all() {
    check(
        "ring pilot hosts=a,b,c,d,e waves=1,2
         promote 1.1 to pilot
         a asks -> lease 600s
         b -> next-wave
         b asks -> next-wave
         pilot -> running wave 1
         a commits
         pilot -> running wave 2: hosts-not-ready
         b asks -> lease 600s
         c asks -> lease 600s
         d asks -> next-wave
         b commits
         d asks -> next-wave
         c commits
         pilot -> running wave 3: hosts-not-ready
         d asks -> lease 600s
         e asks -> lease 600s",
    );
}

#[test]
fn a_wave_does_not_end_on_a_host_that_is_not_known_to_be_healthy() {
    check(
        "ring pilot hosts=a,b waves=1
         promote 1.1 to pilot
         a asks
         a commits unproven
         pilot -> running wave 1: unproven
         a -> unproven
         b asks -> next-wave
         a turns unknown
         b asks -> next-wave
         a turns good
         b asks -> lease 600s",
    );
}

#[test]
fn a_failed_host_leaves_its_place_in_the_wave_to_another() {
    check(
        "ring pilot hosts=a,b,c waves=1 failures=2
         promote 1.1 to pilot
         a asks
         a rolls back
         pilot -> running wave 1: hosts-not-ready
         b asks -> lease 600s
         c asks -> next-wave
         b commits
         c asks -> lease 600s",
    );
}

#[test]
fn at_most_n_are_in_flight() {
    check(
        "ring pilot hosts=a,b,c flight=2
         promote 1.1 to pilot
         a asks -> lease 600s
         b asks -> lease 600s
         c asks -> at-capacity
         c -> offer 1.1 #1
         a commits
         c asks -> lease 600s",
    );
}

#[test]
fn hosts_of_the_rollout_before_hold_their_slots() {
    check(
        "ring pilot hosts=a,b flight=1
         promote 1.1 to pilot
         a asks -> lease 600s
         a begins
         promote 1.2 to pilot
         b asks -> at-capacity
         a commits
         b asks -> lease 600s",
    );
}

#[test]
fn asking_again_after_a_lost_answer_gives_the_same_lease() {
    check(
        "ring pilot hosts=a,b flight=1
         promote 1.1 to pilot
         a asks -> lease 600s
         +60s
         a asks -> lease 540s
         b asks -> at-capacity",
    );
}

#[test]
fn a_lease_that_ran_out_unused_is_given_back() {
    check(
        "ring pilot hosts=a,b flight=1
         promote 1.1 to pilot
         a waits
         a asks -> lease 600s
         +11m
         b asks -> at-capacity
         a waits
         b asks -> lease 600s
         a -> offer 1.1 #1
         a asks -> at-capacity
         b commits
         a asks -> lease 600s
         a commits
         a -> up to date",
    );
}

#[test]
fn a_host_that_stops_short_gives_its_place_to_the_next_and_asks_again() {
    check(
        "ring pilot hosts=a,b flight=1
         promote 1.1 to pilot
         a waits
         a asks -> lease 600s
         a begins
         b asks -> at-capacity
         a waits
         b asks -> lease 600s
         a -> offer 1.1 #1
         a asks -> at-capacity
         b commits
         a asks -> lease 600s
         a begins
         a commits
         a -> up to date",
    );
}

#[test]
fn a_host_goes_on_with_its_attempt_until_that_has_ended() {
    check(
        "ring pilot hosts=a,b failures=3 limit=1200
         promote 1.1 to pilot
         a asks -> lease 600s
         a begins
         +20m
         counts pilot -> 1 waiting, 1 failed
         a -> offer 1.1 #1
         a rolls back
         counts pilot -> 1 waiting, 1 failed
         a -> quarantined",
    );
    check(
        "ring pilot hosts=a,b limit=1200
         promote 1.1 to pilot
         a asks -> lease 600s
         a begins
         +20m
         pilot -> halted
         resume pilot
         a rolls back
         pilot -> running: hosts-not-ready
         counts pilot -> 1 waiting, 1 quarantined",
    );
}

#[test]
fn a_host_that_began_keeps_its_slot_beyond_the_lease() {
    check(
        "ring pilot hosts=a,b flight=1
         promote 1.1 to pilot
         a asks
         a begins
         +11m
         a begins
         b asks -> at-capacity",
    );
}

#[test]
fn after_a_pause_nobody_gets_leave_and_a_lapsed_lease_is_not_renewed() {
    check(
        "ring pilot hosts=a,b,c
         promote 1.1 to pilot
         a waits
         a asks -> lease 600s
         b waits
         pause pilot
         pilot -> paused
         a asks -> paused
         b asks -> paused
         b -> paused
         +11m
         a asks -> paused
         counts pilot -> 3 waiting
         resume pilot
         b asks -> lease 600s",
    );
}

#[test]
fn a_host_that_fails_halts_the_ring_and_the_next_is_never_touched() {
    two_rings(
        "promote 1.1 to pilot
         promote 1.1 to early
         a asks
         a rolls back
         pilot -> halted
         a -> halted
         b asks -> halted
         +24h
         early -> waiting: behind
         c -> behind
         counts pilot -> 1 waiting, 1 failed",
    );
}

#[test]
fn every_kind_of_error_feeds_the_brake() {
    for verb in ["rolls back", "refuses disk-full", "refuses bad-signature", "sticks"] {
        check(&format!(
            "ring pilot hosts=a,b
             promote 1.1 to pilot
             a asks
             a {verb}
             pilot -> halted"
        ));
    }
}

#[test]
fn a_refusal_before_the_lease_counts_too() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a refuses disk-full
         pilot -> halted",
    );
}

#[test]
fn the_weather_is_nobodys_failure_and_the_host_tries_again() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks -> lease 600s
         a refuses fetch-failed
         pilot -> running: hosts-not-ready
         a -> offer 1.1 #2
         a asks -> lease 600s",
    );
}

#[test]
fn a_host_that_fails_below_the_limit_is_held_until_someone_resumes_and_not_offered_it_again() {
    check(
        "ring pilot hosts=a,b failures=3
         promote 1.1 to pilot
         a -> offer 1.1 #1
         a refuses content-mismatch
         a -> failed
         +1m
         a -> failed
         pilot -> running: hosts-not-ready
         pause pilot
         resume pilot
         a -> offer 1.1 #2",
    );
}

#[test]
fn attempts_that_end_without_fault_come_more_and_more_rarely() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         +1s
         a refuses not-permitted
         a -> offer 1.1 #2
         a refuses not-permitted
         a -> tried-before
         a asks -> tried-before
         +1m
         a -> offer 1.1 #3
         a refuses not-permitted
         a -> tried-before
         +15m
         a -> offer 1.1 #4
         a refuses not-permitted
         pause pilot
         resume pilot
         a -> offer 1.1 #5",
    );
}

/// The host reports the hold that it was told of, which must not be a reason for a new one.
#[test]
fn a_host_that_repeats_its_hold_is_offered_the_release_again_all_the_same() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         +1s
         a refuses not-permitted
         a -> offer 1.1 #2
         a refuses not-permitted
         a -> tried-before
         +3s
         a tells its hold
         a -> tried-before
         +1s
         a tells its hold
         +1s
         a -> offer 1.1 #3",
    );
}

#[test]
fn an_offer_that_was_taken_back_is_nobodys_failure_and_frees_the_slot() {
    check(
        "ring pilot hosts=a,b flight=1
         promote 1.1 to pilot
         a waits
         a asks -> lease 600s
         pause pilot
         a drops it
         counts pilot -> 2 waiting
         resume pilot
         b asks -> lease 600s
         a -> offer 1.1 #2",
    );
}

#[test]
fn a_repeated_report_changes_nothing() {
    check(
        "ring pilot hosts=a,b failures=2
         promote 1.1 to pilot
         a asks
         a rolls back
         a repeats
         a rolls back
         counts pilot -> 1 waiting, 1 failed
         pilot -> running: hosts-not-ready",
    );
}

#[test]
fn a_time_out_counts_and_frees_the_slot() {
    check(
        "ring pilot hosts=a,b failures=2 flight=1 limit=1200
         promote 1.1 to pilot
         a asks
         a begins
         +19m
         b asks -> at-capacity
         +1m
         counts pilot -> 1 waiting, 1 failed
         b asks -> lease 600s",
    );
}

#[test]
fn silence_after_the_start_counts() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a begins
         a is silent
         +4m
         pilot -> running
         +1m
         pilot -> halted",
    );
}

#[test]
fn silence_before_the_start_counts() {
    for doing in ["b -> offer 1.1 #1", "a fetches"] {
        check(&format!(
            "ring pilot hosts=a,b
             promote 1.1 to pilot
             {doing}
             a is silent
             +5m
             pilot -> halted"
        ));
    }
}

#[test]
fn silence_after_the_commit_counts_until_the_release_is_proven() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a commits
         b asks
         b commits
         pilot -> soaking
         a is silent
         +5m
         pilot -> halted",
    );
}

#[test]
fn a_host_that_is_away_from_the_start_is_no_failure_and_does_not_block() {
    check(
        "ring pilot hosts=a,b
         b is silent
         +1h
         promote 1.1 to pilot
         a asks
         a commits
         pilot -> running: hosts-not-ready
         +5m
         counts pilot -> 1 healthy, 1 away
         pilot -> soaking
         +10m
         pilot -> done
         b is back
         b -> offer 1.1 #1
         b asks -> lease 600s
         b commits
         counts pilot -> 2 healthy",
    );
}

#[test]
fn a_ring_of_which_everybody_is_away_proves_nothing() {
    check(
        "ring pilot hosts=a
         ring early hosts=c
         a is silent
         promote 1.1 to pilot
         promote 1.1 to early
         +24h
         pilot -> running: all-away
         early -> waiting: behind",
    );
}

#[test]
fn a_server_that_was_down_takes_nobody_for_silent() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a begins
         a is silent
         +4m
         restart
         +4m
         pilot -> running
         a is back
         a commits
         counts pilot -> 1 waiting, 1 healthy",
    );
}

#[test]
fn a_host_that_was_lost_and_comes_back_goes_on_but_stays_counted() {
    check(
        "ring pilot hosts=a,b failures=2
         promote 1.1 to pilot
         a is silent
         +6m
         counts pilot -> 1 waiting, 1 failed
         a is back
         a asks -> lease 600s
         a commits
         counts pilot -> 1 waiting, 1 healthy, 1 failed
         b asks
         b rolls back
         pilot -> halted",
    );
}

#[test]
fn a_host_that_goes_down_to_boot_and_does_not_come_back_is_lost_after_the_start() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a begins
         a reboots
         a is silent
         +4m
         a failure -> none
         +2m
         pilot -> halted
         a failure -> lost-after-start",
    );
}

#[test]
fn a_share_is_compared_exactly() {
    // 20 % of 5 is 1; 21 % of 5 is more than 1, so the second halts.
    for (percent, after_one) in [(20, "halted"), (21, "running: hosts-not-ready")] {
        check(&format!(
            "ring pilot hosts=a,b,c,d,e failures=0 percent={percent}
             promote 1.1 to pilot
             a asks
             a rolls back
             pilot -> {after_one}
             b asks
             b rolls back
             pilot -> halted"
        ));
    }
}

#[test]
fn a_limit_of_a_hundred_percent_can_be_reached() {
    check(
        "ring pilot hosts=a,b failures=0 percent=100
         promote 1.1 to pilot
         a asks
         a rolls back
         b asks
         b rolls back
         pilot -> halted",
    );
}

#[test]
fn either_limit_halts() {
    check(
        "ring pilot hosts=a,b,c,d failures=3 percent=25
         promote 1.1 to pilot
         a asks
         a rolls back
         pilot -> halted",
    );
}

#[test]
fn one_flaky_host_does_not_fail_the_rollout() {
    check(
        "ring pilot hosts=a,b,c failures=2 percent=50
         promote 1.1 to pilot
         a asks
         a rolls back
         b asks
         b commits
         c asks
         c commits
         pilot -> soaking
         +10m
         pilot -> done",
    );
}

#[test]
fn a_ring_of_which_nobody_is_healthy_is_not_proven() {
    check(
        "ring pilot hosts=a,b failures=3
         promote 1.1 to pilot
         a asks
         a rolls back
         b asks
         b rolls back
         +24h
         pilot -> running: none-healthy",
    );
}

#[test]
fn the_brake_works_while_soaking_and_when_proven() {
    for wait in ["+1s", "+11m"] {
        check(&format!(
            "ring pilot hosts=a,b
             promote 1.1 to pilot
             a asks
             a commits
             b asks
             b commits
             {wait}
             a turns bad
             pilot -> halted"
        ));
    }
}

#[test]
fn the_brake_works_while_going_back() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a commits
         b asks
         b commits
         rollback pilot
         a asks -> lease 600s
         a sticks
         pilot -> halted
         b asks -> halted
         resume pilot
         pilot -> rolling-back: hosts-not-ready
         b asks -> lease 600s",
    );
}

#[test]
fn a_paused_rollout_stays_paused_whatever_fails() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a begins
         pause pilot
         a rolls back
         pilot -> paused
         pause pilot
         pilot -> paused
         counts pilot -> 1 waiting, 1 failed",
    );
}

#[test]
fn resuming_begins_a_fresh_count() {
    check(
        "ring pilot hosts=a,b,c
         promote 1.1 to pilot
         a asks
         a rolls back
         pilot -> halted
         resume pilot
         pilot -> running: hosts-not-ready
         counts pilot -> 2 waiting, 1 quarantined
         a -> quarantined
         a asks -> quarantined
         b asks -> lease 600s
         b rolls back
         pilot -> halted",
    );
}

#[test]
fn a_host_that_refused_is_tried_again_after_a_resume() {
    check(
        "ring pilot hosts=a,b failures=2
         promote 1.1 to pilot
         a refuses disk-full
         a -> failed
         a asks -> failed
         pause pilot
         resume pilot
         a -> offer 1.1 #2
         a asks -> lease 600s
         a commits
         counts pilot -> 1 waiting, 1 healthy",
    );
}

#[test]
fn a_silent_host_has_a_fresh_time_after_a_resume() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a begins
         a is silent
         +5m
         pilot -> halted
         resume pilot
         +4m
         pilot -> running
         +1m
         pilot -> halted",
    );
}

#[test]
fn what_runs_cannot_be_resumed() {
    check(
        "ring pilot hosts=a
         promote 1.1 to pilot
         resume pilot -> rollout payments.pilot.1 is running, so there is nothing to resume",
    );
}

#[test]
fn a_quarantined_release_is_offered_again_only_by_name() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a rolls back
         promote 1.1 to pilot
         pilot -> running: hosts-not-ready
         a -> quarantined
         promote 1.1 to pilot retry
         counts pilot -> 2 waiting
         a -> offer 1.1 #1
         a asks -> lease 600s
         a commits
         a -> up to date",
    );
}

#[test]
fn a_newer_release_goes_to_a_host_that_refused_the_one_before() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a rolls back
         rollback pilot
         pilot -> rolled-back
         promote 1.2 to pilot
         a -> offer 1.2 #1
         a asks -> lease 600s",
    );
}

#[test]
fn a_newer_promotion_takes_the_place_of_a_halted_one() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a rolls back
         pilot -> halted
         promote 1.2 to pilot
         pilot -> running: hosts-not-ready
         b asks -> lease 600s
         counts pilot -> 1 waiting, 1 in flight",
    );
}

#[test]
fn a_renewed_file_starts_nothing() {
    check(
        "ring pilot hosts=a
         promote 1.1 to pilot
         a asks
         a commits
         +10m
         renew pilot
         pilot -> done
         a -> up to date",
    );
}

#[test]
fn a_host_that_runs_something_newer_is_left_alone() {
    check(
        "ring pilot hosts=a,b
         a runs 2.0 ahead
         promote 1.1 to pilot
         a -> ahead
         a asks -> ahead
         b asks
         b commits
         pilot -> soaking
         counts pilot -> 1 healthy, 1 ahead",
    );
}

#[test]
fn a_rollback_takes_back_whoever_runs_the_release_and_nobody_else() {
    check(
        "ring pilot hosts=a,b,c,d flight=1
         promote 1.1 to pilot
         a asks
         a commits
         b asks
         b commits
         rollback pilot
         pilot -> rolling-back: hosts-not-ready
         c -> rolled-back
         c asks -> rolled-back
         a -> back to 1.0
         a asks -> lease 600s
         b asks -> at-capacity
         a commits
         a -> rolled-back
         b asks -> lease 600s
         b commits
         pilot -> rolled-back",
    );
}

#[test]
fn a_host_on_its_way_backs_out_of_a_ring_that_goes_back() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a switches
         rollback pilot
         a -> back out
         a rolls back
         pilot -> rolled-back
         counts pilot -> 1 waiting, 1 quarantined",
    );
}

#[test]
fn nobody_goes_back_into_a_withdrawn_release() {
    check(
        "ring pilot hosts=a
         promote 1.1 to pilot
         a asks
         a commits
         withdraw 1.0
         rollback pilot -> the ring would go back to 1.0, which was withdrawn
         a -> up to date",
    );
    check(
        "ring pilot hosts=a
         promote 1.1 to pilot
         a asks
         a commits
         rollback pilot
         withdraw 1.0
         pilot -> rolling-back: withdrawn
         a asks -> withdrawn",
    );
}

#[test]
fn a_withdrawn_release_goes_to_nobody_else_and_is_not_removed() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a commits
         withdraw 1.1
         pilot -> running: withdrawn
         b asks -> withdrawn
         a -> up to date",
    );
}

#[test]
fn late_hosts_pass_the_same_gates() {
    two_rings(
        "promote 1.1 to pilot
         promote 1.1 to early
         e joins early
         e -> behind
         f joins pilot
         f -> offer 1.1 #1
         f asks -> lease 600s
         f commits
         a asks
         a commits
         b asks
         b commits
         pilot -> soaking
         g joins pilot
         pilot -> running: hosts-not-ready
         c -> behind
         g asks -> lease 600s
         g commits
         +10m
         pilot -> done
         h joins pilot
         h -> offer 1.1 #1
         pilot -> done
         a moves to early
         a -> up to date",
    );
}

#[test]
fn a_host_that_moves_while_in_flight_holds_its_slot_to_the_end() {
    two_rings(
        "policy pilot flight=1
         promote 1.1 to pilot
         a asks -> lease 600s
         a begins
         a moves to early
         b asks -> at-capacity
         a commits
         a -> nothing-promoted
         b asks -> lease 600s
         counts pilot -> 1 in flight",
    );
}

#[test]
fn a_host_that_may_not_call_any_more_holds_no_slot_and_blocks_nobody() {
    check(
        "ring pilot hosts=a,b flight=1
         promote 1.1 to pilot
         a asks
         a begins
         a leaves
         b asks -> lease 600s
         b commits
         +5m
         pilot -> soaking",
    );
}

#[test]
fn a_soak_starts_again_when_a_host_is_no_longer_known_to_be_healthy() {
    check(
        "ring pilot hosts=a,b
         promote 1.1 to pilot
         a asks
         a commits
         b asks
         b commits
         +9m
         a turns unknown
         pilot -> running: unproven
         a turns good
         +9m
         pilot -> soaking
         +1m
         pilot -> done",
    );
}

/// Time passes in tenths, and hosts call after each: a silent host is one that misses some of them.
fn by_the_clock(script: &str) {
    check(&format!(
        "ring pilot hosts=a,b silence=36000
         ring early hosts=c,d silence=36000
         {script}"
    ));
}

#[test]
fn hosts_get_a_release_ready_outside_its_window_and_begin_in_it() {
    by_the_clock(
        "settle 0s
         window open UTC daily 02:00-04:00
         promote 1.1 to pilot
         a -> offer 1.1 #1
         a asks -> outside-window
         pilot -> running: outside-window
         +119m
         a asks -> outside-window
         pilot -> running: outside-window
         +1m
         pilot -> running: hosts-not-ready
         a asks -> lease 600s
         a commits
         +115m
         b asks -> lease 300s",
    );
}

#[test]
fn waiting_for_a_window_is_no_silence_and_no_failure_however_long_it_lasts() {
    by_the_clock(
        "settle 0s
         window open UTC sun 02:00-04:00
         promote 1.1 to pilot
         a asks -> outside-window
         +72h
         a failure -> none
         pilot -> running: outside-window
         counts pilot -> 2 waiting",
    );
}

#[test]
fn a_change_inside_a_window_does_not_fire_at_once() {
    by_the_clock(
        "window open UTC daily 00:00-04:00
         +30m
         promote 1.1 to pilot
         a asks -> settling
         pilot -> running: settling
         +10m
         a asks -> lease 600s",
    );
    by_the_clock(
        "promote 1.1 to pilot
         freeze 0m 2h
         +30m
         a asks -> frozen
         no hours
         a asks -> settling
         +10m
         a asks -> lease 600s",
    );
    // Without windows nobody could be surprised by one.
    by_the_clock("promote 1.1 to pilot\na asks -> lease 600s");
}

#[test]
fn windows_and_freezes_are_about_those_whom_they_name() {
    by_the_clock(
        "settle 0s
         window open UTC daily 02:00-04:00 pilot region=eu
         window open host daily 20:00-22:00 role=db
         freeze 0m 1h early
         a has region=eu
         b has role=db
         promote 1.1 to pilot
         a asks -> outside-window
         b asks -> unknown-zone
         b lives in America/New_York
         b asks -> outside-window
         +60m
         b asks -> lease 600s
         b commits
         a asks -> outside-window
         +60m
         a asks -> lease 600s
         a commits",
    );
}

#[test]
fn an_emergency_passes_over_what_its_signers_named() {
    by_the_clock(
        "settle 0s
         window avoid UTC daily 00:00-24:00
         freeze 0m 900h
         promote 1.1 to pilot past=window
         a asks -> frozen
         promote 1.2 to pilot past=window past=freeze
         a asks -> lease 600s",
    );
}

#[test]
fn an_emergency_takes_what_came_through_before_for_enough_and_begins_everywhere_at_once() {
    let early = "ring early hosts=c,d,e silence=36000 waves=1";
    check(&format!(
        "ring pilot hosts=a,b silence=36000
         {early}
         promote 1.1 to pilot
         promote 1.1 to early past=soak past=share
         c -> behind
         a asks
         a commits
         c -> behind
         b asks
         b commits
         pilot -> soaking
         c asks -> lease 600s
         d asks -> lease 600s
         e asks -> lease 600s"
    ));
    check(&format!(
        "ring pilot hosts=a
         {early}
         promote 1.1 to early past=after
         c asks -> lease 600s
         d asks -> next-wave"
    ));
    // The one without the other.
    check(&format!(
        "ring pilot hosts=a silence=36000
         {early}
         promote 1.1 to pilot
         promote 1.1 to early past=share
         a asks
         a commits
         pilot -> soaking
         c -> behind
         promote 1.1 to early past=soak
         c asks -> lease 600s
         d asks -> next-wave"
    ));
}

#[test]
fn going_back_waits_for_no_window() {
    by_the_clock(
        "settle 0s
         window open UTC daily 00:00-01:00
         promote 1.1 to pilot
         a asks
         a commits
         freeze 0m 900h
         +2h
         b asks -> frozen
         rollback pilot
         a asks -> lease 600s",
    );
}

#[test]
fn a_soak_goes_on_while_no_window_is_open() {
    by_the_clock(
        "settle 0s
         window open UTC daily 00:00-01:00
         promote 1.1 to pilot
         a asks
         a commits
         b asks
         b commits
         +2h
         pilot -> done",
    );
}
