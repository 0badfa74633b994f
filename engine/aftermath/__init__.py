"""The proof that the whole loop works: what is written today can be read back from the archive alone."""
