use super::*;

/// What a work finds, on a kernel.
struct Exponentials<'a>(&'a [f32]);

impl Work for Exponentials<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<L: Lanes>(self) -> Vec<f32> {
        let mut out = vec![0.0; self.0.len()];
        for (x, out) in self.0.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let mut found = [0.0; LANES];
            exp(L::load(&padded(x))).store(&mut found);
            out.copy_from_slice(&found[..out.len()]);
        }
        out
    }
}

#[test]
fn exponentials_are_within_their_bound() {
    let numbers: Vec<f32> = (-870_000..=880_000).map(|i| i as f32 * 1e-4).collect();
    for kernel in Kernel::available() {
        let found = kernel.run(Exponentials(&numbers));
        for (x, found) in numbers.iter().zip(found) {
            let exact = f64::from(*x).exp();
            let error = (f64::from(found) - exact).abs() / exact;
            assert!(error < 2e-7, "{kernel:?}: e^{x} = {found}, {error:e} off");
        }
        let ends = [f32::NEG_INFINITY, -1e9, 0.0, 89.0, f32::INFINITY];
        let found = kernel.run(Exponentials(&ends));
        assert!(found[0] < 2e-38 && found[1] < 2e-38 && found[2] == 1.0);
        assert!(found[3] == found[4] && found[4].is_finite());
    }
}

/// Everything that a kernel does by an instruction of its own.
struct Everything<'a> {
    numbers: &'a [f32; LANES],
    halves: &'a [u16; 2 * LANES],
    bytes: &'a [u8; 4 * LANES],
}

impl Work for Everything<'_> {
    type Output = (Vec<f32>, Vec<u16>, Vec<f32>);

    #[inline(always)]
    fn run<L: Lanes>(self) -> Self::Output {
        let a = L::load(self.numbers);
        let low = self.halves.as_chunks::<LANES>().0;
        let (b, c) = (L::load_f16(&low[0]), L::load_bf16(&low[0]));
        let two = L::splat(2.0);
        let ints = L::add_bytes(
            L::splat_int(-7),
            L::load_bytes(self.bytes),
            [-127, 5, 127, 0],
        );
        let mut exact = Vec::new();
        for lanes in [
            b,
            c,
            a.add(two),
            a.mul(two),
            a.div(two),
            a.max(two),
            a.round(),
            a.round().power_of_two(),
            L::from_ints(ints),
        ] {
            let mut out = [0.0; LANES];
            lanes.store(&mut out);
            exact.extend(out);
        }
        exact.push(a.highest());
        exact.extend(L::sums([a, two, a, a.add(two), two]));
        exact.push(a.sum());
        let mut halves = [0; LANES];
        a.store_bf16(&mut halves);

        let pairs = L::load_pairs(self.halves);
        let mut rounded = Vec::new();
        for lanes in [a.mul_add(c, b), a.add_pairs(pairs, pairs)] {
            let mut out = [0.0; LANES];
            lanes.store(&mut out);
            rounded.extend(out);
        }
        (exact, halves.into(), rounded)
    }
}

#[test]
fn all_kernels_do_the_same() {
    let numbers = std::array::from_fn(|i| (i as f32 - 7.3) * 1.17);
    // 1 to 2 in both formats of sixteen bits.
    let halves = std::array::from_fn(|i| 0x3f80 + 3 * i as u16);
    let bytes = std::array::from_fn(|i| 1 + (i as u8).wrapping_mul(37) % 255);
    let run = |kernel: Kernel| {
        kernel.run(Everything {
            numbers: &numbers,
            halves: &halves,
            bytes: &bytes,
        })
    };
    let (exact, halves_found, rounded) = run(Kernel::Portable);
    for kernel in Kernel::available() {
        let found = run(kernel);
        assert_eq!(found.0, exact, "{kernel:?}");
        assert_eq!(found.1, halves_found, "{kernel:?}");
        for (found, expected) in found.2.iter().zip(&rounded) {
            assert!(
                (found - expected).abs() < 1e-5,
                "{kernel:?}: {found} {expected}"
            );
        }
    }
}
