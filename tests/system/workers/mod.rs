//! Inference workers: what they are asked for, which jobs they take, how they come and go.

mod kills;
mod lanes;
mod leaving;
mod options;
