//! Input for tests, the same in every run for the same seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// A vector literal of `dims` values in −1…1.
pub fn random_vector(seed: u64, dims: usize) -> String {
    let mut rng = StdRng::seed_from_u64(seed);
    let values: Vec<String> =
        (0..dims).map(|_| format!("{:.4}", rng.random_range(-1.0..1.0f32))).collect();
    format!("[{}]", values.join(","))
}

/// `count` English words.
pub fn words(seed: u64, count: usize) -> String {
    const WORDS: [&str; 40] = [
        "river", "stone", "engine", "winter", "music", "doctor", "market", "signal", "garden",
        "planet", "bridge", "letter", "animal", "window", "harbor", "history", "science",
        "football", "kitchen", "mountain", "painting", "language", "island", "soldier", "teacher",
        "computer", "forest", "railway", "novel", "coffee", "a", "the", "of", "runs", "above",
        "slowly", "blue", "ancient", "seven", "between",
    ];
    let mut rng = StdRng::seed_from_u64(seed);
    let words: Vec<&str> =
        (0..count).map(|_| *WORDS.choose(&mut rng).expect("the list is not empty")).collect();
    words.join(" ")
}
