//! What holds whatever happens in which order.
