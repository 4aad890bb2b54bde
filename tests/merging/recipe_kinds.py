"""Kinds of recipes that mergekit's documentation allows, as YAML over small models: {root} is the folder that they lie in."""

TWO = """
models:
  - model: {root}/a
  - model: {root}/b
"""
AROUND = """
base_model: {root}/base
models:
  - model: {root}/a
    parameters: {{weight: 0.6, density: 0.5}}
  - model: {root}/b
    parameters: {{weight: 0.3, density: 0.7}}
"""


def around(method: str, extra: str = "") -> str:
    return f"merge_method: {method}\n{AROUND}{extra}"


# mergekit's own six examples, over small models of as many layers as theirs need fewer.
EXAMPLES = {
    "example arcee_fusion": "models: [{{model: {root}/a}}, {{model: {root}/b}}]\nmerge_method: arcee_fusion\nbase_model: {root}/a\n"  # noqa: E501
    "dtype: float32\n",
    "example bio-merge": """
models:
  - model: {root}/a
    parameters:
      density: 0.5
      weight: 0.5
  - model: {root}/b
    parameters:
      density: 0.5
      weight: 0.5
merge_method: ties
base_model: {root}/base
parameters:
  normalize: false
  int8_mask: true
dtype: float16
""",
    "example gradient-slerp": """
slices:
  - sources:
      - model: {root}/a
        layer_range: [0, 4]
      - model: {root}/b
        layer_range: [0, 4]
merge_method: slerp
base_model: {root}/a
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
""",
    "example linear": """
models:
  - model: {root}/a
    parameters:
      weight: 1.0
  - model: {root}/b
    parameters:
      weight: 0.3
  - model: {root}/c
    parameters:
      weight: 0.5
merge_method: linear
dtype: float16
""",
    "example orcamini-platy-44layer": """
slices:
  - sources:
    - model: {root}/a
      layer_range: [0, 2]
  - sources:
    - model: {root}/b
      layer_range: [1, 4]
merge_method: passthrough
dtype: float16
""",
    "example ties": """
models:
  - model: {root}/a
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: {root}/b
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: {root}/c
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: {root}/base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""",
}

KINDS = {
    "linear, one weight for all": f"merge_method: linear\n{TWO}parameters: {{{{weight: 0.5}}}}\n",
    "linear, not normalised": f"merge_method: linear\n{TWO}parameters: {{{{weight: 0.4, normalize: false}}}}\n",
    "linear, negative weight": """
merge_method: linear
models:
  - model: {root}/a
    parameters: {{weight: 1.5}}
  - model: {root}/b
    parameters: {{weight: -0.5}}
""",
    "linear, weight 0": """
merge_method: linear
models:
  - model: {root}/a
    parameters: {{weight: 1}}
  - model: {root}/b
    parameters: {{weight: 0}}
""",
    "linear, base listed": "merge_method: linear\nbase_model: {root}/base\nmodels: [{{model: {root}/base}}, {{model: {root}/a}}]\n"  # noqa: E501
    "parameters: {{weight: 1}}\n",
    "linear, base not listed": "merge_method: linear\nbase_model: {root}/base\nmodels: [{{model: {root}/a}}]\nparameters: {{weight: 1}}\n",  # noqa: E501
    "linear, weight by layer": """
merge_method: linear
models:
  - model: {root}/a
    parameters: {{weight: [0, 0.5, 1]}}
  - model: {root}/b
    parameters: {{weight: [1, 0.5, 0.1]}}
""",
    "linear, weight by filter": """
merge_method: linear
models:
  - model: {root}/a
    parameters:
      weight:
        - {{filter: mlp, value: 0.8}}
        - {{filter: self_attn.q_proj, value: [0.1, 0.9]}}
        - {{value: 0.3}}
  - model: {root}/b
    parameters: {{weight: 0.5}}
""",
    "linear, filter * and null": f"""
merge_method: linear
{TWO}parameters:
  weight:
    - {{{{filter: norm, value: 0.8}}}}
    - {{{{filter: "*", value: 0.25}}}}
""",
    "numbers as 6e-1": around("ties").replace("0.6", "6e-1"),
    "numbers quoted": around("ties").replace("0.6", '"0.6"'),
    "quoted false": around("ties", 'parameters: {{normalize: "false"}}\n'),
    "yes and no": around("task_arithmetic", "parameters: {{normalize: yes, int8_mask: no}}\n"),
    "model as a mapping": around("ties").replace("model: {root}/a", "model: {{model: {{path: {root}/a}}}}"),
    "base as a mapping": around("ties").replace("base_model: {root}/base", "base_model: {{model: {{path: {root}/base}}}}"),
    "anchors": """
merge_method: ties
base_model: {root}/base
models:
  - model: {root}/a
    parameters: &shared {{weight: 0.5, density: 0.5}}
  - model: {root}/b
    parameters: *shared
""",
    "ties, lambda": around("ties", "parameters: {{lambda: 0.7}}\n"),
    "ties, lambda by layer": around("ties", "parameters: {{lambda: [0.5, 1.0]}}\n"),
    "ties, lambda 0": around("ties", "parameters: {{lambda: 0}}\n"),
    "ties, negative lambda": around("ties", "parameters: {{lambda: -0.5}}\n"),
    "ties, negative weight": around("ties", "parameters: {{normalize: false}}\n").replace("0.3", "-0.3"),
    "ties, density 1": around("ties").replace("density: 0.5", "density: 1"),
    "ties, density 0": around("ties").replace("density: 0.5", "density: 0"),
    "ties, base listed": around("ties").replace("models:\n", "models:\n  - model: {root}/base\n"),
    "task arithmetic": around("task_arithmetic"),
    "task arithmetic, weight 0 everywhere": around("task_arithmetic").replace("0.6", "0").replace("0.3", "0"),
    "dare_linear, density 1": around("dare_linear").replace("density: 0.5", "density: 1").replace("density: 0.7", "density: 1"),
    "dare_ties, density 1 and 0": around("dare_ties").replace("density: 0.5", "density: 1").replace("density: 0.7", "density: 0"),
    "breadcrumbs": around("breadcrumbs", "parameters: {{gamma: 0.05}}\n"),
    "breadcrumbs, gammas": around("breadcrumbs").replace("density: 0.5", "density: 0.5, gamma: 0.2"),
    "breadcrumbs_ties": around("breadcrumbs_ties", "parameters: {{gamma: 0.05}}\n"),
    "della, density 1": around("della").replace("density: 0.5", "density: 1").replace("density: 0.7", "density: 1"),
    "della_linear, density 1": around("della_linear").replace("density: 0.5", "density: 1").replace("density: 0.7", "density: 1"),
    "sce": around("sce", "parameters: {{select_topk: 0.3}}\n").replace("{{weight: 0.6, density: 0.5}}", "{{}}"),
    "ram": around("ram", "parameters: {{epsilon: 0.01}}\n"),
    "ramplus_tl": around("ramplus_tl", "parameters: {{epsilon: 0.01, r: 0.4, alpha: 0.9}}\n"),
    "model_stock": around("model_stock"),
    "model_stock, filter_wise": around("model_stock", "parameters: {{filter_wise: true}}\n"),
    "slerp, t 0": f"merge_method: slerp\nbase_model: {{root}}/a\n{TWO}parameters: {{{{t: 0}}}}\n",
    "slerp, t 1": f"merge_method: slerp\nbase_model: {{root}}/a\n{TWO}parameters: {{{{t: 1}}}}\n",
    "slerp, base is the second": f"merge_method: slerp\nbase_model: {{root}}/b\n{TWO}parameters: {{{{t: 0.3}}}}\n",
    "slerp, base not listed": "merge_method: slerp\nbase_model: {root}/a\nmodels: [{{model: {root}/b}}]\nparameters: {{t: [0.2, 0.9]}}\n",  # noqa: E501
    "nuslerp": f"merge_method: nuslerp\n{TWO}parameters: {{{{weight: [0.2, 0.9]}}}}\n",
    "nuslerp, around a base": around("nuslerp"),
    "nuslerp, rows": around("nuslerp", "parameters: {{nuslerp_flatten: false}}\n"),
    "nuslerp, columns": around("nuslerp", "parameters: {{nuslerp_flatten: false, nuslerp_row_wise: true}}\n"),
    "multislerp": f"merge_method: multislerp\n{TWO}parameters: {{{{weight: 0.5}}}}\n",
    "multislerp, weights as they are": around("multislerp", "parameters: {{normalize_weights: false}}\n"),
    "karcher": f"merge_method: karcher\n{TWO}parameters: {{{{max_iter: 20}}}}\n",
    "nearswap": "merge_method: nearswap\nbase_model: {root}/base\nmodels: [{{model: {root}/a}}]\nparameters: {{t: [0.005, 0.02]}}\n",  # noqa: E501
    "arcee_fusion": "merge_method: arcee_fusion\nbase_model: {root}/base\nmodels: [{{model: {root}/a}}]\n",
    "passthrough, scale": """
merge_method: passthrough
models:
  - model: {root}/a
    parameters:
      scale:
        - {{filter: o_proj, value: 0}}
        - {{filter: down_proj, value: [0.5, 1]}}
        - {{value: 1}}
""",
    "passthrough, layers twice": """
merge_method: passthrough
slices:
  - sources: [{{model: {root}/a, layer_range: [0, 3]}}]
  - sources: [{{model: {root}/a, layer_range: [1, 3], parameters: {{scale: 0.9}}}}]
  - sources: [{{model: {root}/b, layer_range: [3, 4]}}]
""",
    "slices, ties": """
merge_method: ties
base_model: {root}/base
slices:
  - sources:
      - {{model: {root}/base, layer_range: [0, 2]}}
      - {{model: {root}/a, layer_range: [0, 2], parameters: {{weight: 0.5, density: [0.2, 0.9]}}}}
      - {{model: {root}/b, layer_range: [2, 4], parameters: {{weight: 0.5, density: 0.5}}}}
  - sources:
      - {{model: {root}/base, layer_range: [3, 4]}}
      - {{model: {root}/c, layer_range: [3, 4], parameters: {{weight: 1, density: 0.5}}}}
    parameters: {{lambda: 0.5}}
""",
    "slices, a base of their own": """
merge_method: slerp
base_model: {root}/a
slices:
  - sources: [{{model: {root}/a, layer_range: [0, 2]}}, {{model: {root}/b, layer_range: [0, 2]}}]
    parameters: {{t: 0.3}}
  - sources: [{{model: {root}/b, layer_range: [2, 4]}}, {{model: {root}/c, layer_range: [2, 4]}}]
    base_model: {root}/b
    parameters: {{t: 0.6}}
""",
    "modules": """
merge_method: linear
modules:
  default:
    models:
      - {{model: {root}/a, parameters: {{weight: 0.3}}}}
      - {{model: {root}/b, parameters: {{weight: 0.7}}}}
""",
    "modules, slices": """
merge_method: passthrough
modules:
  default:
    slices:
      - sources: [{{model: {root}/b, layer_range: [0, 2]}}]
      - sources: [{{model: {root}/a, layer_range: [0, 1]}}]
""",
    "dtype bfloat16": around("task_arithmetic", "dtype: bfloat16\n"),
    "out_dtype": around("ties", "dtype: float32\nout_dtype: float16\n"),
    "model with an adapter": around("ties").replace("model: {root}/a", "model: {root}/a+{root}/lora"),
    "base with an adapter": around("task_arithmetic").replace("base_model: {root}/base", "base_model: {root}/base+{root}/lora"),
    "adapter as a mapping": around("task_arithmetic").replace(
        "model: {root}/a", "model: {{model: {{path: {root}/a}}, lora: {{path: {root}/lora}}}}"
    ),
    "tokenizer_source base": around("task_arithmetic", "tokenizer_source: base\n"),
    "tokenizer_source union": around("task_arithmetic", "tokenizer_source: union\n").replace("{root}/b\n", "{root}/more\n"),
    "tokenizer_source a model": around("task_arithmetic", "tokenizer_source: {root}/more\n").replace(
        "{root}/b\n", "{root}/more\n"
    ),
    "tokenizer, tokens": around(
        "task_arithmetic",
        """
tokenizer:
  source: union
  pad_to_multiple_of: 16
  tokens:
    new0: {{source: {root}/more}}
    new1: {{source: {{kind: zero}}}}
    w3: {{source: {{kind: model_token, model: {root}/a, token: w4}}, force: true}}
    w5: {{source: {{kind: model_token, model: {root}/more, token_id: 9}}, force: true}}
    fresh: {{source: {{kind: model_token, model: {root}/base, token: w1}}}}
""",
    )
    .replace("{root}/b\n", "{root}/more\n")
    .replace("weight: 0.3", "weight: 0.4"),
    "chat_template auto": f"merge_method: linear\n{TWO}parameters: {{{{weight: 0.5}}}}\nchat_template: auto\n",
    "chat_template, a text": f"merge_method: linear\n{TWO}parameters: {{{{weight: 0.5}}}}\n"
    "chat_template: \"{{% for message in messages %}}{{{{ message['content'] }}}}{{% endfor %}}\"\n",
}
