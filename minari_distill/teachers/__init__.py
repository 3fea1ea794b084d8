"""Teachers: near-expert policies with a value function, learnt offline."""
