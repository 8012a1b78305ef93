//! The weights on the device: matrices in bf16, projections of the same input as one, norms and
//! biases in f32.

use super::machine::{Machine, Memory};
use crate::error::Error;
use crate::model::{Data, Layer, Linear, Matrix, Model, f32_to_bf16};

/// `y = W x + b` on the machine.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) weight: Memory,
    pub(super) bias: Option<Memory>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

#[derive(Debug)]
pub(super) struct DeviceLayer {
    pub(super) attention_norm: Memory,
    pub(super) qkv: Product,
    pub(super) q_norm: Option<Memory>,
    pub(super) k_norm: Option<Memory>,
    pub(super) output: Product,
    pub(super) mlp_norm: Memory,
    pub(super) gate_up: Product,
    pub(super) down: Product,
}

#[derive(Debug)]
pub(super) struct DeviceWeights {
    pub(super) embedding: Product,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) norm: Memory,
    /// Where it is not the embedding.
    head: Option<Product>,
}

impl DeviceWeights {
    /// # Errors
    /// [`Error::Device`] when they do not fit.
    pub(super) fn new(machine: &impl Machine, model: &Model) -> Result<Self, Error> {
        let weights = model.weights();
        let layers = weights.layers.iter().map(|layer| one(machine, layer));
        let table = |matrix: &Matrix| product(machine, &[(matrix, None)]);
        Ok(Self {
            embedding: table(&weights.embedding)?,
            layers: layers.collect::<Result<_, _>>()?,
            norm: vector(machine, &weights.norm)?,
            head: weights.lm_head.as_ref().map(table).transpose()?,
        })
    }

    pub(super) fn head(&self) -> &Product {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

fn one(machine: &impl Machine, layer: &Layer) -> Result<DeviceLayer, Error> {
    let linear = |linear: &Linear| {
        let parts = linear
            .parts
            .iter()
            .map(|part| (&part.weight, part.bias.as_deref()));
        product(machine, &parts.collect::<Vec<_>>())
    };
    let norm = |norm: &Option<Vec<f32>>| {
        let norm = norm.as_ref();
        norm.map(|norm| vector(machine, norm)).transpose()
    };
    Ok(DeviceLayer {
        attention_norm: vector(machine, &layer.attention_norm)?,
        qkv: linear(&layer.qkv)?,
        q_norm: norm(&layer.q_norm)?,
        k_norm: norm(&layer.k_norm)?,
        output: linear(&layer.output)?,
        mlp_norm: vector(machine, &layer.mlp_norm)?,
        gate_up: linear(&layer.gate_up)?,
        down: linear(&layer.down)?,
    })
}

fn product(machine: &impl Machine, parts: &[(&Matrix, Option<&[f32]>)]) -> Result<Product, Error> {
    let rows = parts.iter().map(|(matrix, _)| matrix.rows).sum();
    let columns = parts.first().map_or(0, |(matrix, _)| matrix.columns);
    let weight = machine.memory(rows * columns * 2, "weights")?;
    let mut start = 0;
    for (matrix, _) in parts {
        match &matrix.data {
            Data::Bf16(halves) => machine.put(&weight, start, halves)?,
            Data::F32(_) | Data::F16(_) | Data::Int8(_) => {
                let mut row = vec![0.0; columns];
                let mut halves = Vec::with_capacity(matrix.rows * columns);
                for at in 0..matrix.rows {
                    matrix.copy_row(at, &mut row);
                    halves.extend(row.iter().copied().map(f32_to_bf16));
                }
                machine.put(&weight, start, &halves)?;
            }
        }
        start += matrix.rows * columns * 2;
    }
    let biases: Vec<f32> = parts
        .iter()
        .filter_map(|(_, bias)| *bias)
        .flatten()
        .copied()
        .collect();
    let bias = (!biases.is_empty()).then(|| vector(machine, &biases));
    Ok(Product {
        weight,
        bias: bias.transpose()?,
        rows,
        columns,
    })
}

pub(super) fn vector(machine: &impl Machine, numbers: &[f32]) -> Result<Memory, Error> {
    let memory = machine.memory(size_of_val(numbers), "norms and biases")?;
    machine.put(&memory, 0, numbers)?;
    Ok(memory)
}
