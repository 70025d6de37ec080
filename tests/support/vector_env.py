"""A vector of small environments in the form that rsl_rl asks for."""

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict


class PointEnv(VecEnv):
    """A point to be pushed to the origin; an episode ends after 5 to 8 steps, by environment."""

    num_envs = 8
    num_actions = 2
    max_episode_length = 8
    device = "cpu"
    cfg: dict = {}  # noqa: RUF012

    def __init__(self):
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self.limits = 5 + torch.arange(self.num_envs) % 4
        self.point = torch.randn(self.num_envs, 2)

    def get_observations(self):
        return TensorDict({"policy": self.point.clone()}, batch_size=[self.num_envs])

    def step(self, actions):
        self.point = self.point + 0.1 * actions.clamp(-1, 1)
        self.episode_length_buf = self.episode_length_buf + 1
        rewards = -self.point.norm(dim=1)
        dones = (self.episode_length_buf >= self.limits).long()
        self.episode_length_buf = self.episode_length_buf * (1 - dones)
        self.point = torch.where(dones[:, None] == 1, torch.randn(self.num_envs, 2), self.point)
        return self.get_observations(), rewards, dones, {}
