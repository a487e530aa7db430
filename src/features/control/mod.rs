//! The JSON spoken with back ends: their orders in, answers to them out.

pub mod order;
pub mod report;
