"""H -> aa -> 4b: fine-tuning against baselines, pairing, limits, closure and the energy scale."""
