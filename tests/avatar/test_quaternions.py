"""Quaternions of matrices as roma gives them, whose branch rule the original's Gaussians depend on."""

import pytest
import roma
import torch

from guava_aug.avatar.avatar import matrix_to_quat


@pytest.mark.parametrize("noise", [0.0, 0.05])  # 0.05: skinning matrices are blends of rotations
def test_the_same_as_roma(noise):
    torch.manual_seed(0)
    half_turns = torch.diag_embed(torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
    m = torch.cat([half_turns, roma.random_rotmat(3000)]).view(4, 751, 3, 3)
    m = m + noise * torch.randn(m.shape)
    true = roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(m))
    torch.testing.assert_close(matrix_to_quat(m), true, atol=3e-7, rtol=0)  # signs too
