    truncate text DEFAULT NULL,
    prefix gpt2.prefix DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL,
