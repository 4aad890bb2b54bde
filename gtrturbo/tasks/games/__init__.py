"""The built-in games as Gymnasium environments: rules, pictures, prompts, truths and experts."""
