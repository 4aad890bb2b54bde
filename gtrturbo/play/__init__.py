"""Episodes: who answers (a policy here, a server, a script), the loop over environments, and turns to and from disk."""
