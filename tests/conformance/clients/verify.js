// Verifies a bundle with sigstore-js, offline: node verify.js MODULES BUNDLE TRUSTED_ROOT IDENTITY ISSUER ARTIFACT
// The library checks everything about the signature; what a DSSE payload says about files is its caller's to compare,
// so the last lines here do that, as any user of the library has to.
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const { createRequire } = require('module');

const [modules, bundlePath, rootPath, identity, issuer, artifact] = process.argv.slice(2);
const load = createRequire(path.join(path.resolve(modules), 'index.js'));
const { bundleFromJSON } = load('@sigstore/bundle');
const { TrustedRoot } = load('@sigstore/protobuf-specs');
const { toSignedEntity, toTrustMaterial, Verifier } = load('@sigstore/verify');

const read = (file) => JSON.parse(fs.readFileSync(file, 'utf-8'));
const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

try {
  const bundle = bundleFromJSON(read(bundlePath));
  const verifier = new Verifier(toTrustMaterial(TrustedRoot.fromJSON(read(rootPath))));
  verifier.verify(toSignedEntity(bundle), {
    subjectAlternativeName: `^${escape(identity)}$`,
    extensions: { issuer },
  });
  const digest = crypto.createHash('sha256').update(fs.readFileSync(artifact)).digest('hex');
  const statement = JSON.parse(Buffer.from(bundle.content.dsseEnvelope.payload).toString('utf-8'));
  if (!statement.subject.some((subject) => subject.digest.sha256 === digest)) {
    throw new Error('SUBJECT: the artifact is not a subject of the statement');
  }
  console.log('OK');
} catch (error) {
  console.error(`${error.code || error.name}: ${String(error.message).split('\n')[0]}`);
  process.exit(1);
}
