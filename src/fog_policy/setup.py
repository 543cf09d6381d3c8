"""Build of the ament_python package fog_policy (colcon and pip)."""

from setuptools import find_packages, setup

package_name = "fog_policy"

setup(
    name=package_name,
    version="0.1.0",
    description="Policies trained inside world models, and the node that runs one",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
    ],
    install_requires=[
        "setuptools",
        "fog_world_model",
        "matplotlib",
        "numpy",
        "onnxruntime",
        "rich",
        "rsl-rl-lib",
        "safetensors",
        "tensordict",
        "torch",
    ],
    extras_require={"test": ["pytest", "hypothesis"]},
    zip_safe=True,
    license="Apache-2.0",
    maintainer="FoG maintainers",
    maintainer_email="maintainers@example.org",
    python_requires=">=3.10",
    entry_points={
        "console_scripts": [
            # `ros2 run fog_policy policy_node`; the prefixed name is for a PATH shared with others.
            "policy_node = fog_policy.policy_node:main",
            "fog_policy_node = fog_policy.policy_node:main",
        ],
    },
)
