    input_ids int[] DEFAULT NULL,
    special_tokens boolean DEFAULT false,
