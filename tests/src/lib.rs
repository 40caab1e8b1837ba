//! Whole-system tests of Refit: the sandbox that starts real processes, and what it takes to break them.
