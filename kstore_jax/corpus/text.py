def open_documents(source):
    raise NotImplementedError


def text_parts(tokenizer, documents):
    raise NotImplementedError
