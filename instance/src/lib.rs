//! Tiebar's instance.
