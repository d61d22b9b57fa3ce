//! Tiebar's operator.
