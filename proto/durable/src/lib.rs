//! Files and key-value stores that survive a power cut. Knows no protocol.
