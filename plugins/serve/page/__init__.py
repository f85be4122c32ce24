"""The page at ``/``: a chat and a comparison of models, in the browser, by the same paths as any client.

``interface.py`` hands out the files of ``static/``, which are what they are: ES modules, no build step. The page's own
map is ``static/js/main.js``; ``static/vendor/README.md`` says which libraries of others are there and how to renew
them.
"""
