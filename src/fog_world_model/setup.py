"""Build of the ament_python package fog_world_model (colcon and pip)."""

from setuptools import find_packages, setup

package_name = "fog_world_model"

setup(
    name=package_name,
    version="0.1.0",
    description="World models of a robot, and the data that they are fitted to",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
    ],
    # Unpinned here, because colcon installs into whatever the machine has; the versions that the
    # stack is tested with are in requirements/.
    install_requires=[
        "setuptools",
        "accelerate",
        "diffusers",
        "gymnasium",
        "matplotlib",
        "mcap",
        "numpy",
        "opencv-python",
        "psutil",
        "pyyaml",
        "rich",
        "rosbags",
        "safetensors",
        "shapely",
        "tensorboard",
        "torch",
        "zarr",
        "zstandard",
    ],
    extras_require={"test": ["pytest", "hypothesis"]},
    zip_safe=True,
    license="Apache-2.0",
    maintainer="FoG maintainers",
    maintainer_email="maintainers@example.org",
    python_requires=">=3.10",
)
