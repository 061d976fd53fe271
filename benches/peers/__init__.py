"""Speed, memory and accuracy of smoothxent beside the losses that people use now.

| module | what |
|---|---|
| `command` | the command line, and what happens in which order |
| `cases` | what is measured: shapes, dtypes, passes, variants |
| `data` | the buffers that every implementation gets |
| `implementations/` | one file for each: how it is called, what it cannot do |
| `reference`, `tolerance` | the loss and gradient in f64, and how far a result may be from them |
| `ahead` | what peers compile, compiled by several processes before anything is timed |
| `timing` | events, batches, samples that take turns, graphs |
| `speed`, `accuracy`, `head` | the three measurements |
| `machine` | the device, its clocks and what throttles it |
| `record`, `summary` | CSV files and the tables that come last |

`cases`, `tolerance`, `record` and `summary` need nothing but Python.
"""
