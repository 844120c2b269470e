//! From a policy's source to a source.
