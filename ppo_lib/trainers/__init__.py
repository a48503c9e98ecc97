"""The algorithms: supervised fine-tuning, reward model, PPO, GRPO, DPO, and what they share."""
