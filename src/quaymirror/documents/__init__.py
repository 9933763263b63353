"""The JSON documents that quaymirror writes for programs, as types by subject; their schemas are generated."""
