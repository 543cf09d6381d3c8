"""The local world model: a light, differentiable recurrent state-space model."""
